"""The kinds of training by the `task` a recipe names, and what the command hands to each.

Called by `training.train`. A task is a module with ``run(recipe_file, options, processes)``; it reads the recipe with
a schema of its own. A recipe without a task is a two-dimensional detector.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from training.errors import RecipeError
from training.several import Processes


class Stage(StrEnum):
    """A part of a training that can be run alone; each needs what the ones before it left in the out folder."""

    AUDIT = "audit"  # look at the data, write audit.json
    SPLIT = "split"  # deal patients into folds, write splits.json
    FOLD = "fold"  # train on all folds but one and score that one
    REFIT = "refit"  # train on everything: the weights that are shipped
    REPORT = "report"  # evaluate, export, prove, write card and report into the zoo


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What a person asked of the command.

    Attributes
    ----------
    data, out, zoo : Path
        Where the films are, where work in progress is kept, where the finished model goes.
    stages : tuple of Stage
        Empty for everything that is not yet done.
    folds : tuple of int
        For the stage FOLD: which; empty for all.
    splits : Path or None
        A split that the user brings.
    tracking : Path or None
        Where MLflow keeps its records; None keeps none.
    resume : bool
        Go on with what lies in the out folder; False starts anew.
    replace : bool
        Write over another model of the same name and version in the zoo.
    """

    data: Path
    out: Path
    zoo: Path
    stages: tuple[Stage, ...] = ()
    folds: tuple[int, ...] = ()
    splits: Path | None = None
    tracking: Path | None = None
    resume: bool = True
    replace: bool = False

    def wants(self, stage: Stage) -> bool:
        """Whether this stage is to be run."""
        return not self.stages or stage in self.stages


class Task(Protocol):
    """What runs one kind of training; returns the model's folder when one was written."""

    def __call__(self, recipe_file: Path, options: Options, processes: Processes) -> Path | None:
        """Run the stages asked for."""


TASKS: Mapping[str, str] = {
    "detection-2d": "training.detection:run",
    "detection-3d": "training.ct.train:run",
}


def task_of(recipe_file: Path) -> Task:
    """The function that runs the recipe's kind of training.

    Raises
    ------
    RecipeError
        If the file cannot be read or names no task there is.
    """
    try:
        name = tomllib.loads(recipe_file.read_text(encoding="utf-8")).get("task", "detection-2d")
    except OSError as error:
        raise RecipeError(f"{recipe_file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{recipe_file}: not UTF-8 (byte {error.start}): save the recipe as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{recipe_file}: not valid TOML: {error}") from error
    if name not in TASKS:
        raise RecipeError(f"{recipe_file}: task: there is no {name!r}; there are {', '.join(TASKS)}")
    module, function = TASKS[name].split(":")
    return cast("Task", getattr(import_module(module), function))
