"""Readers of data sets for an evaluation, one module for each layout that a `DATASET.toml` can name.

Called by `eval.running` and by `training.evaluation_run`. Training has readers of its own, which say what a film may
teach; these say what is true of a case. No reader decodes a picture.
"""

from __future__ import annotations

from pathlib import Path

from eval.cases import EvalCase, checked
from eval.datasets import DatasetError, DatasetFile, Layout
from eval.tables import TableError


def read_cases(dataset: DatasetFile, root: Path) -> tuple[EvalCase, ...]:
    """All cases of a data set whose files lie below `root`, in the order of their names.

    Raises
    ------
    DatasetError
        If a table is missing or cannot be understood, a case is there twice, or files are missing.
    """
    from eval.layouts import coco, decathlon, dicom, luna16, table

    readers = {
        Layout.TABLE: table.read,
        Layout.COCO: coco.read,
        Layout.LUNA16: luna16.read,
        Layout.DECATHLON: decathlon.read,
        Layout.DICOM: dicom.read,
    }
    if not root.is_dir():
        raise DatasetError(f"{dataset.reference}: {root} is no folder; name it with root or --root")
    try:
        return checked(readers[dataset.layout](dataset, root), dataset)
    except TableError as error:
        raise DatasetError(f"{dataset.reference}: {error}") from error
