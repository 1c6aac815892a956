"""Small pictures of errors, with readers' and the model's boxes drawn on them, where the licence allows pictures.

Called by `eval.report.build`. A file is only used when its digest is that of the run's manifest. Cases in volumes, and
files that are not in the folder, keep the drawing of their boxes.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw

from eval.report.faults import ReportError
from eval.report.inputs import Manifest
from eval.report.sections import Drawn, Gallery, Shown
from eval.runs import file_sha256
from inference.loading import load_film, load_image
from inference.refusals import Refused

LONGEST_PX: Final = 320
_QUALITY: Final = 70
_FILMS: Final = frozenset({".jpg", ".jpeg", ".png"})
_DICOM: Final = frozenset({".dcm", ""})
COLOURS: Final = {"lesion": "#35c26b", "irrelevant": "#9aa0a6", "mark": "#ffd23f", "false_mark": "#ff7a59"}


def add_pictures(
    galleries: tuple[Gallery, ...], manifest: Manifest, folder: Path
) -> tuple[tuple[Gallery, ...], dict[str, bytes]]:
    """The galleries with the digest of each picture that could be made, and the pictures by digest.

    Raises
    ------
    ReportError
        If a file of the folder is not the one that the run read.
    """
    pictures: dict[str, bytes] = {}
    made = [
        gallery.model_copy(update={"shown": tuple(_with(one, manifest, folder, pictures) for one in gallery.shown)})
        for gallery in galleries
    ]
    return tuple(made), pictures


def _with(shown: Shown, manifest: Manifest, folder: Path, pictures: dict[str, bytes]) -> Shown:
    file = _file(shown, manifest, folder)
    drawn = None if file is None else _picture(file, shown.drawn)
    if drawn is None:
        return shown
    jpeg, frame = drawn
    digest = hashlib.sha256(jpeg).hexdigest()
    pictures[digest] = jpeg
    return shown.model_copy(update={"picture_sha256": digest, "frame": frame})


def _file(shown: Shown, manifest: Manifest, folder: Path) -> Path | None:
    """The picture's file, by its place in the set or by its name alone."""
    inputs = manifest.get(shown.case, ())
    wanted = [pair for pair in inputs if shown.image is None or Path(pair[0]).name == Path(shown.image).name]
    if len(wanted) != 1:
        return None
    name, sha256 = wanted[0]
    found = next((path for path in (folder / name, folder / Path(name).name) if path.is_file()), None)
    if found is not None and file_sha256(found) != sha256:
        raise ReportError([f"section 13, errors: the picture of case {shown.case} is not the file that the run read"])
    return found


def _picture(file: Path, boxes: tuple[Drawn, ...]) -> tuple[bytes, tuple[float, float, float, float]] | None:
    """A JPEG and the size of the whole picture; None for what is no single picture."""
    suffix = file.suffix.lower()
    if suffix not in _FILMS | _DICOM:
        return None
    try:
        pixels = (load_film if suffix in _FILMS else load_image)(file).pixels
    except Refused:
        return None
    grey = np.asarray(np.rint(np.clip(pixels, 0, 1) * 255), dtype=np.uint8)
    height, width = grey.shape
    scale = min(1.0, LONGEST_PX / max(height, width))
    small = Pillow.fromarray(grey).resize(
        (max(1, round(width * scale)), max(1, round(height * scale))), Pillow.Resampling.LANCZOS
    )
    picture = small.convert("RGB")
    pen = ImageDraw.Draw(picture)
    for one in boxes:
        pen.rectangle([edge * scale for edge in one.box], outline=COLOURS[one.kind], width=2)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=_QUALITY, optimize=True)
    return out.getvalue(), (0.0, 0.0, float(width), float(height))
