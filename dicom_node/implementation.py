"""How the node names itself in DICOM: on associations, in file meta information and in the objects it writes."""

from __future__ import annotations

from typing import Final

# PS3.7 D.3.3.2: one UID for all installations of this software; `2.25.` and a UUID made once (PS3.5 B.2).
IMPLEMENTATION_CLASS_UID: Final = "2.25.185286441205712396371045170241735938131"
IMPLEMENTATION_VERSION_NAME: Final = "RADNODE_1"
