"""The displayed picture of a source file, for drawing on.

Called by `sc`. The grey-scale chain is `inference.loading`'s, so that what is drawn on is what the model saw.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.loading import load_image


def displayed_picture(path: Path, frame_number: int | None) -> NDArray[np.float32]:
    """Grey 0..1 of one image or of one frame (1-based) of it, as displayed, float32 (rows, columns).

    Raises
    ------
    inference.refusals.Refused
        When the picture cannot be decoded or its header cannot be trusted.
    """
    return load_image(path, frame=frame_number).pixels
