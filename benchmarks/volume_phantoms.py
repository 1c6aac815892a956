"""Measures how exact lesions on CT are measured: balls and ellipsoids of known size on several grids, small to large.

Against the truth, no peer. For each grid and size ten phantoms at random places, with true partial volume, some with
noise and with a scanner's blur; a box with the error of a detector (a tenth of its side) says where to look, as the
network would. Prints the largest errors as Markdown. Run ``python -m benchmarks.volume_phantoms``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.volumes.grid import Grid
from inference.volumes.measure import is_resolved, sizes
from inference.volumes.merge import Place
from inference.volumes.segment import segment
from tests.ct_phantoms import Ellipsoid, Triple, hounsfield, rendered, rotation, volume_of

GRIDS: dict[str, Triple] = {"0.7 x 0.7 x 0.7": (0.7, 0.7, 0.7), "0.7 x 0.7 x 1.25": (1.25, 0.7, 0.7)}
GRIDS |= {"0.7 x 0.7 x 2.5": (2.5, 0.7, 0.7), "0.8 x 0.8 x 5.0": (5.0, 0.8, 0.8)}
DIAMETERS_MM = (3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0)
CASES = {"clean": (0.0, 0.0), "noise 30 HU": (30.0, 0.0), "blur 0.5 mm, noise 30 HU": (30.0, 0.5)}
PHANTOMS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Errors:
    """Of one phantom: parts of the truth, and the centre's error in voxels along the worst axis."""

    volume: float
    diameter: float
    center_voxels: float
    resolved: bool  # whether the node would report volume and axes


def blurred(values: NDArray[np.float64], spacing_mm: Triple, blur_mm: float) -> NDArray[np.float64]:
    """The point spread of a scanner, alike along all axes."""
    from scipy import ndimage

    return np.asarray(ndimage.gaussian_filter(values, [blur_mm / step for step in spacing_mm], truncate=5))


def measured(
    spacing_mm: Triple, diameter_mm: float, noise_hu: float, blur_mm: float, random: np.random.Generator
) -> Errors | None:
    """Errors of one random phantom; None where no lesion was found in its box."""
    stretch = np.exp(random.uniform(-0.2, 0.2, 3))
    half = diameter_mm / 2 * stretch / np.prod(stretch) ** (1 / 3)
    shape = tuple(int(np.ceil((diameter_mm * 1.3 + 26) / step)) for step in spacing_mm)
    center = np.asarray(shape) / 2 + random.uniform(-0.5, 0.5, 3)
    truth = Ellipsoid(
        center=tuple(center),
        half_axes_mm=tuple(half),
        turned=rotation(*random.uniform(-90, 90, 3)),  # type: ignore[arg-type]
    )
    part = rendered(shape, spacing_mm, [truth])  # type: ignore[arg-type]
    values = hounsfield(blurred(part, spacing_mm, blur_mm) if blur_mm else part)
    values = values + random.normal(0, noise_hu, values.shape) if noise_hu else values
    volume = volume_of(values.astype(np.float32), spacing_mm)
    reach = np.asarray([np.sqrt(((axis * half) ** 2).sum()) for axis in truth.turned.T]) / spacing_mm
    off = random.uniform(-0.1, 0.1, (2, 3)) * reach * 2
    place = Place(label_index=0, low=center - reach + off[0], high=center + reach + off[1], logit=5.0)
    found = segment(volume, place, Grid(voxels=volume.voxels, factor=(1.0, 1.0, 1.0)))
    if found is None:
        return None
    said = sizes(found, volume)
    true_mean = sum(truth.plane_axes_mm()) / 2
    return Errors(
        volume=said.volume_mm3 / truth.volume_mm3 - 1,
        diameter=said.mean_diameter_mm / true_mean - 1,
        center_voxels=float(np.abs(np.asarray(said.center) - center).max()),
        resolved=is_resolved(said, volume),
    )


def line(grid: str, spacing_mm: Triple, diameter_mm: float, case: str) -> str:
    """The largest errors of ten phantoms."""
    noise_hu, blur_mm = CASES[case]
    random = np.random.default_rng(round(diameter_mm * 10))
    errors = [measured(spacing_mm, diameter_mm, noise_hu, blur_mm, random) for _ in range(PHANTOMS)]
    known = [one for one in errors if one is not None]
    thick = diameter_mm / max(spacing_mm)
    if not known:
        return f"| {grid} | {diameter_mm:g} | {thick:.1f} | {case} | | | | no | 0/{PHANTOMS} |"
    volume = max(abs(one.volume) for one in known)
    diameter = max(abs(one.diameter) for one in known)
    center = max(one.center_voxels for one in known)
    good = len(known) == PHANTOMS and volume <= 0.05 and diameter <= 0.05 and center <= 0.5
    reported = sum(one.resolved for one in known)
    figures = f"{volume:.1%} | {diameter:.1%} | {center:.2f} | {'yes' if good else 'no'} | {reported}/{PHANTOMS}"
    return f"| {grid} | {diameter_mm:g} | {thick:.1f} | {case} | {figures} |"


def main() -> None:
    print("| grid, mm | diameter, mm | slices across | case | volume | diameter | centre, voxels | holds | reported |")
    print("|---|--:|--:|---|--:|--:|--:|---|--:|")
    for grid, spacing_mm in GRIDS.items():
        for diameter_mm in DIAMETERS_MM:
            for case in CASES:
                print(line(grid, spacing_mm, diameter_mm, case), flush=True)


if __name__ == "__main__":
    main()
