"""A training's checkpoint and its readable history, written whole and read with the reason when they cannot be.

Called by the loops of all tasks (`training.loop`, `training.ct.loop`); what a checkpoint holds is theirs to say.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from training.errors import ResumeError
from training.files import write_whole

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Replace the checkpoint; a cut leaves the old one."""
    content = io.BytesIO()
    torch.save(dict(state), content)
    write_whole(path, content.getvalue())


def read_checkpoint(
    path: Path, device: torch.device, identities: Collection[str], *, made_from: str
) -> dict[str, Any] | None:
    """What `write_checkpoint` wrote; None where there is none yet.

    Parameters
    ----------
    identities : collection of str
        What the state's "identity" may be.
    made_from : str
        What the training learns from, for the message: "films", "scans".

    Raises
    ------
    ResumeError
        If the file cannot be read, or was made under another recipe or from other data.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        identity = state["identity"]
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError) as error:
        raise ResumeError(f"{path.name} cannot be read ({type(error).__name__}); remove it to start anew") from error
    if identity not in identities:
        raise ResumeError(
            f"{path.name} was made under another recipe or from other {made_from}; remove it to start anew"
        )
    return state


def write_history(checkpoint: Path, history: Sequence[DataclassInstance]) -> None:
    """The epochs that have ended, one JSON object a line, beside the checkpoint."""
    lines = [json.dumps(asdict(progress)) for progress in history]
    write_whole(checkpoint.with_suffix(".history.jsonl"), "\n".join(lines) + "\n")
