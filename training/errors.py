"""What can go wrong in a training that a person can mend: each error's message names the thing and the remedy.

TrainingError
├── RecipeError    the recipe breaks a rule
├── DataError      the data set cannot be used as it is
│   └── SplitError     the split parts a patient or does not fit the data
├── ResumeError    what lies in the out folder was made from something else
├── ExportError    the exported file does not say what the network says
└── TrackingError  the run's records cannot be kept
"""

from __future__ import annotations


class TrainingError(Exception):
    """Base of all that `radnode train` reports in one message and without a traceback."""


class RecipeError(TrainingError):
    """The recipe cannot be read or breaks a rule; the message lists every fault."""


class DataError(TrainingError):
    """The folder is not a set of films: a table or a film is missing, or a row cannot be understood."""


class SplitError(DataError):
    """A split parts a patient, does not fit the films, or was changed after it was stored."""


class ResumeError(TrainingError):
    """A checkpoint or a kept result belongs to another recipe or other films, or cannot be read."""


class TrackingError(TrainingError):
    """MLflow cannot keep the run's records; results and checkpoints are untouched."""


class ExportError(TrainingError):
    """The written file does not say what the network says, or is too large."""
