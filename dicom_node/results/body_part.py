"""Body part and side of a result series, which PS3.3 C.7.3.1 ties to one another.

Used by the writers of pictures and presentation states.
"""

from __future__ import annotations

import re
from typing import Final

from pydicom import Dataset

from dicom_node.results.header import SourceHeader

_BODY_PART: Final = re.compile(r"[A-Z0-9_ ]{1,16}")
# Parts of which a body has one (PS3.16 Annex L): Laterality (0020,0060) belongs only to the others.
# fmt: off
_UNPAIRED: Final = frozenset(
    (
        "ABDOMEN", "ABDOMENPELVIS", "AORTA", "BLADDER", "BRAIN", "CERVIX", "CHEST", "CHESTABDOMEN",
        "CHESTABDPELVIS", "COCCYX", "COLON", "CSPINE", "CTSPINE", "DUODENUM", "ESOPHAGUS", "FACE",
        "GALLBLADDER", "HEAD", "HEADNECK", "HEART", "JAW", "LARYNX", "LIVER", "LSPINE", "LSSPINE", "MAXILLA",
        "MEDIASTINUM", "MOUTH", "NECK", "NECKCHEST", "NECKCHESTABDOMEN", "NECKCHESTABDPELV", "NOSE", "PANCREAS",
        "PELVIS", "PENIS", "PHARYNX", "PROSTATE", "RECTUM", "SKULL", "SPINE", "SPLEEN", "SSPINE", "STERNUM",
        "STOMACH", "THYROID", "TLSPINE", "TONGUE", "TRACHEA", "TSPINE", "URETHRA", "UTERUS", "VAGINA",
        "WHOLEBODY",
    )
)
# fmt: on


def copy_body_part(result: Dataset, header: SourceHeader) -> None:
    """Body Part Examined of the source and, where a body has two of the part, the side (empty when unknown)."""
    part = header.text("BodyPartExamined").upper()
    if _BODY_PART.fullmatch(part):
        result.BodyPartExamined = part
    if part not in _UNPAIRED:
        side = header.text("Laterality") or header.text("ImageLaterality")
        result.Laterality = side if side in {"L", "R"} else None
