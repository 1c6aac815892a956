"""The picture that goes with a document: of the overlays of a result the one with the most certain lesion, as JPEG.

Called by `outbox.preparing`. The overlay itself is `dicom_node.results`; here it is only made small enough to travel.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pydicom
from PIL import Image

from dicom_node.ehr.context import KeyImage
from dicom_node.ledger.results import WrittenObject
from dicom_node.store import Store
from inference.findings import Findings, SeriesUid, SopUid

LONGEST_SIDE_PX = 1280  # words of the picture's bands stay readable, and a document stays well below a megabyte
JPEG_QUALITY = 85
OVERLAY = "overlay"


def key_image(store: Store, objects: Sequence[WrittenObject], findings: Findings) -> KeyImage | None:
    """The key image of a result, or None where it has no overlay or its file was evicted.

    Parameters
    ----------
    store : Store
    objects : sequence of WrittenObject
        Of one result set.
    findings : Findings
        What the result says; the picture with the highest score is taken, else the first.
    """
    overlays = [one for one in objects if one.role == OVERLAY and one.path]
    paths = [(one, path) for one in overlays if one.path and (path := store.path(one.path)).exists()]
    if not paths:
        return None
    wanted = _image_of_highest_score(findings)
    chosen, path = next(((one, path) for one, path in paths if wanted and wanted in _sources(path)), paths[0])
    return KeyImage(
        sop_instance_uid=SopUid(chosen.sop_instance_uid),
        series_uid=SeriesUid(chosen.series_uid),
        media_type="image/jpeg",
        data=_jpeg(path),
    )


def _image_of_highest_score(findings: Findings) -> str | None:
    if not findings.lesions:
        return None
    return max(findings.lesions, key=lambda lesion: lesion.score).region.key_plane.sop_instance_uid


def _sources(path: Path) -> frozenset[str]:
    """SOP Instance UIDs of what a picture was drawn over."""
    header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SourceImageSequence"])
    return frozenset(str(one.ReferencedSOPInstanceUID) for one in header.get("SourceImageSequence", ()))


def _jpeg(path: Path) -> bytes:
    """Our own overlays are uncompressed RGB of eight bits (`results.sc`)."""
    capture = pydicom.dcmread(path)
    picture = Image.frombytes("RGB", (int(capture.Columns), int(capture.Rows)), capture.PixelData)
    picture.thumbnail((LONGEST_SIDE_PX, LONGEST_SIDE_PX), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    picture.save(written, "JPEG", quality=JPEG_QUALITY)
    return written.getvalue()
