"""Is this CT of the part of the body that the model was trained on? Shares of lung, soft tissue and bone, and litres.

Called by `inference.volumes` for a model whose card has a guard of the method ``hounsfield-1``; `training.volume_guard`
measures its limits. Four plain figures with a lowest and a highest value, for no statistics can be learnt from a
handful of patients; what they cannot see is in docs/models/guard.md. Pictures are judged by `inference.guard`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from inference.findings import Flag
from inference.guard_file import GuardError, file_of, named, read_arrays
from inference.images import Volume
from inference.refusals import Reason, Refused
from models.card import Guard

HOUNSFIELD = "hounsfield-1"
MEASURES: Mapping[str, str] = {
    "lung_share": "aerated lung as a share of the body",
    "bone_share": "bone as a share of soft tissue",
    "body_share": "body as a share of the picture",
    "lung_litres": "litres of aerated lung",
}
_AIR_HU = -400.0  # below it a cell is air or lung
_LUNG_HU, _TISSUE_HU, _BONE_HU = (-950.0, -400.0), (-150.0, 150.0), 250.0
_CELLS = 64  # along rows and columns; a cell is the mean of what it covers
_SMALLEST = 1e-6
_MM3_PER_LITRE = 1e6


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VolumeGuard:
    """Limits of the figures of a CT of the right kind, in the order of `MEASURES`.

    Attributes
    ----------
    lowest, highest : float64 (measures,)
    threshold : float
        By which factor a figure may lie outside its limits.
    action : "refuse" or "flag"
    """

    lowest: NDArray[np.float64]
    highest: NDArray[np.float64]
    threshold: float
    action: Literal["refuse", "flag"] = "refuse"

    def factors(self, volume: Volume) -> dict[str, float]:
        """For each figure by which factor it lies outside its limits; 1 or less is inside."""
        found = np.maximum(measures(volume), _SMALLEST)
        outside = np.maximum(self.lowest / found, found / np.maximum(self.highest, _SMALLEST))
        return dict(zip(MEASURES, outside.tolist(), strict=True))

    def flags(self, volume: Volume) -> tuple[Flag, ...]:
        """The caution with which a volume is analysed: none where it is of the right kind.

        Raises
        ------
        inference.refusals.Refused
            OUT_OF_RANGE, naming what is unusual, when it is not of that kind and the card says refuse.
        """
        factors = self.factors(volume)
        if max(factors.values()) <= self.threshold:
            return ()
        if self.action == "refuse":
            raise Refused(Reason.OUT_OF_RANGE, self._detail(volume, factors))
        return (Flag.OUT_OF_RANGE,)

    def _detail(self, volume: Volume, factors: Mapping[str, float]) -> str:
        found = dict(zip(MEASURES, measures(volume).tolist(), strict=True))
        odd = [
            f"{MEASURES[name]} {found[name]:.3f}, accepted {low / self.threshold:.3f} to {high * self.threshold:.3f}"
            for name, low, high in zip(MEASURES, self.lowest.tolist(), self.highest.tolist(), strict=True)
            if factors[name] > self.threshold
        ]
        return f"unlike the CT the model was trained on: {'; '.join(odd)}"


def read_volume_guard(data: bytes, guard: Guard) -> VolumeGuard:
    """The guard of a card from the bytes of its file.

    Raises
    ------
    GuardError
        If the bytes are not those of the card, the method is another, or the limits are missing or odd.
    """
    try:
        if guard.method != HOUNSFIELD:
            raise GuardError(f"method {guard.method!r} is not {HOUNSFIELD!r}")
        limits = named(read_arrays(data, guard), "limits", (len(MEASURES), 2))
        if (limits[:, 0] > limits[:, 1]).any() or (limits < 0).any():
            raise GuardError("limits: a lowest value above the highest, or below nothing")
    except GuardError as error:
        raise GuardError(f"{guard.file}: {error}") from error
    return VolumeGuard(lowest=limits[:, 0], highest=limits[:, 1], threshold=guard.threshold, action=guard.action)


def volume_guard_bytes(lowest: NDArray[np.float64], highest: NDArray[np.float64]) -> bytes:
    """The file that `read_volume_guard` reads."""
    return file_of({"limits": np.stack([lowest, highest], axis=1)})


def measures(volume: Volume) -> NDArray[np.float64]:
    """The figures of a volume, float64 in the order of `MEASURES`; looked at in cells of each slice."""
    cells = _cells(volume.voxels)
    outside = _from_border(cells < _AIR_HU)
    body = max(int(np.count_nonzero(~outside)), 1)
    lung = int(np.count_nonzero(~outside & (cells > _LUNG_HU[0]) & (cells < _LUNG_HU[1])))
    tissue = int(np.count_nonzero((cells > _TISSUE_HU[0]) & (cells < _TISSUE_HU[1])))
    bone = int(np.count_nonzero(cells > _BONE_HU))
    extent_mm3 = float(np.prod(np.multiply(volume.voxels.shape, volume.spacing_mm)))
    litres = lung / cells.size * extent_mm3 / _MM3_PER_LITRE
    return np.asarray([lung / body, bone / max(tissue, 1), body / cells.size, litres])


def _cells(voxels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of the cells of each slice; what is left over at the right and bottom is left out."""
    slices, rows, columns = voxels.shape
    high, wide = max(rows // _CELLS, 1), max(columns // _CELLS, 1)
    down, across = rows // high, columns // wide
    cut = voxels[:, : down * high, : across * wide]
    return np.asarray(cut.reshape(slices, down, high, across, wide).mean(axis=(2, 4)), dtype=np.float32)


def _from_border(air: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Air that is connected to the border of its slice."""
    reached = np.zeros_like(air)
    for edge in (np.s_[:, 0], np.s_[:, -1], np.s_[:, :, 0], np.s_[:, :, -1]):
        reached[edge] = air[edge]
    while True:
        grown = reached.copy()
        grown[:, 1:] |= reached[:, :-1]
        grown[:, :-1] |= reached[:, 1:]
        grown[:, :, 1:] |= reached[:, :, :-1]
        grown[:, :, :-1] |= reached[:, :, 1:]
        grown &= air
        if (grown == reached).all():
            return reached
        reached = grown
