"""One CT study on its way through the engine: the series that is looked at, its tiles, and what is said of it.

`inference.engine` moves a `VolumeRun` as it moves pictures: loading in a loader's thread, tiles through the batcher,
the conclusion in a loader's thread again. The decisions are made here and in the modules beside this one, without
threads; a part of the volume that the network did not see means that nothing is said of the study.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.findings import Flag
from inference.images import LoadLimits, Volume
from inference.intended_use import check
from inference.loading import SliceHeader, load_volume, read_slice_header
from inference.outputs.seen import picture_logits
from inference.refusals import Reason, Refusal, Refused
from inference.study_run import Analysis, StudyRun, telling
from inference.volume_guard import VolumeGuard
from inference.volumes.decode import StitchedMap, TileMark, tile_marks
from inference.volumes.grid import Grid, normalised, resample
from inference.volumes.merge import Place, merged, regions
from inference.volumes.say import say_all
from inference.volumes.series import ranked
from inference.volumes.tiles import Tile, cut, plan
from models.card import ModelCard
from models.inputs import VolumeInput
from models.outputs import BoxesOutput, HeatmapOutput, ProbabilityOutput

Floats = NDArray[np.float32]
Skipped = tuple[str, Refusal]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LoadedVolume:
    """A volume ready for the network: on the source's grid, on the model's, and cut into tiles."""

    volume: Volume
    grid: Grid
    tiles: tuple[Tile, ...]
    flags: tuple[Flag, ...]


def load_series(
    card: ModelCard, paths: Sequence[Path], limits: LoadLimits, *, guard: VolumeGuard | None = None
) -> tuple[LoadedVolume | Refusal, tuple[Skipped, ...]]:
    """The best series of a study as a volume ready for the network, or why there is none; and what was left out.

    Parameters
    ----------
    paths : sequence of Path
        Images of any series of one study.
    guard : VolumeGuard, optional
        Refuses or flags a series that is not of the part of the body the model was trained on.

    Returns
    -------
    LoadedVolume or Refusal
    skipped : tuple of (series UID or file name, Refusal)
        Series, and images outside the model's intended use or unreadable.
    """
    assert isinstance(card.input, VolumeInput)
    headers, flags, skipped = _headers(card, paths, limits)
    fit, unfit = ranked(headers, max_step_mm=card.input.max_slice_spacing_mm)
    skipped += unfit
    for place, series in enumerate(fit):
        raised = frozenset(flag for one in series.slices for flag in flags[one.path])
        try:
            volume = load_volume([one.path for one in series.slices], limits=limits)
            loaded = _ready(card, volume, raised, limits, guard)
        except Refused as refused:
            skipped.append((series.uid, refused.refusal))
            continue
        other = Refusal(reason=Reason.OTHER_SERIES, detail=f"{series.step_mm:.2f} mm apart and {len(series.slices)}")
        skipped += [(later.uid, _instead(later.slices, other)) for later in fit[place + 1 :]]
        return loaded, tuple(skipped)
    tried = {series.uid for series in fit}
    refused_series = [refusal for name, refusal in skipped if name in tried]
    return telling(refused_series or [refusal for _, refusal in skipped]), tuple(skipped)


def _ready(
    card: ModelCard, volume: Volume, raised: frozenset[Flag], limits: LoadLimits, guard: VolumeGuard | None
) -> LoadedVolume:
    """A volume on the model's grid, cut into tiles; raises `Refused` where it does not suit the model."""
    assert isinstance(card.input, VolumeInput)
    odd = () if guard is None else guard.flags(volume)
    grid = resample(volume, card.input, limits=limits)
    tiles = plan(grid.shape, card.input.tile, card.input.overlap)
    ordered = tuple(flag for flag in Flag if flag in raised or flag in odd)
    return LoadedVolume(volume=volume, grid=grid, tiles=tiles, flags=ordered)


def take_volume(
    card: ModelCard, read: Callable[[], Volume], limits: LoadLimits, *, guard: VolumeGuard | None = None
) -> LoadedVolume | Refusal:
    """A volume that is no DICOM series, made ready under the same checks; `read` is `StudyInput.read_volume`."""
    assert isinstance(card.input, VolumeInput)
    try:
        volume = read()
        verdict = check(volume.headers[0], card.intended_use)
        if isinstance(verdict, Refusal):
            return verdict
        if volume.spacing_mm[0] > card.input.max_slice_spacing_mm:
            return Refusal(
                reason=Reason.GEOMETRY,
                detail=f"slices {volume.spacing_mm[0]:.2f} mm apart, the model accepts "
                f"{card.input.max_slice_spacing_mm:g} mm",
            )
        return _ready(card, volume, frozenset(verdict), limits, guard)
    except Refused as refused:
        return refused.refusal


def _instead(slices: Sequence[SliceHeader], chosen: Refusal) -> Refusal:
    return Refusal(reason=chosen.reason, detail=f"{len(slices)} slices; analysed was one of slices {chosen.detail}")


def _headers(
    card: ModelCard, paths: Sequence[Path], limits: LoadLimits
) -> tuple[list[SliceHeader], dict[Path, tuple[Flag, ...]], list[Skipped]]:
    """Headers of images within the intended use, their cautions, and the others; like ones of a series are one."""
    kept: list[SliceHeader] = []
    flags: dict[Path, tuple[Flag, ...]] = {}
    skipped: Counter[Skipped] = Counter()
    for path in sorted(paths):
        try:
            one = read_slice_header(path, limits=limits)
        except Refused as refused:
            skipped[path.name, refused.refusal] += 1
            continue
        verdict = check(one.header, card.intended_use)
        if isinstance(verdict, Refusal):
            skipped[one.header.series_uid, verdict] += 1
            continue
        kept.append(one)
        flags[path] = verdict
    return kept, flags, [(name, _counted(refusal, count)) for (name, refusal), count in skipped.items()]


def _counted(refusal: Refusal, count: int) -> Refusal:
    return refusal if count == 1 else Refusal(reason=refusal.reason, detail=f"{refusal.detail} ({count} images)")


class VolumeRun(StudyRun):
    """The state of one CT study in the engine; see `StudyRun`."""

    source: LoadedVolume | None = None
    broken: Refusal | None = None  # why a tile could not be judged
    _marks: list[TileMark]
    _stitched: StitchedMap | None
    _pictures: list[tuple[float, ...]]
    _given = 0  # tiles that were handed out

    def load(self, limits: LoadLimits, *, guard: VolumeGuard | None = None) -> Refusal | None:
        """Read the study and get ready to hand out tiles; a refusal when there is nothing to look at."""
        found: LoadedVolume | Refusal
        if (read := self.study.read_volume) is not None:
            found = take_volume(self.card, lambda: read(self.study.images), limits, guard=guard)
        else:
            found, skipped = load_series(self.card, self.study.images, limits, guard=guard)
            self.skipped = list(skipped)
        if isinstance(found, Refusal):
            return found
        self.source = found
        self._marks, self._pictures = [], []
        self._stitched = None
        if isinstance(self.card.output, HeatmapOutput):
            self._stitched = StitchedMap(found.grid.shape, self.card)
        return None

    @property
    def flags(self) -> tuple[Flag, ...]:
        """Cautions about what is analysed."""
        raised = set(super().flags) | set(self.source.flags if self.source else ())
        return tuple(flag for flag in Flag if flag in raised)

    def _digest(self) -> str:
        assert self.source is not None
        seen = {"volume": self.source.volume.pixel_digest, "flags": self.flags}
        seen["slices"] = self.source.volume.sop_instance_uids
        return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()

    def next_tiles(self, most: int) -> tuple[Tile, ...]:
        """Tiles that were not yet looked at, none when all were."""
        assert self.source is not None
        tiles = self.source.tiles[self._given : self._given + most]
        self._given += len(tiles)
        return tiles

    def tensor(self, tile: Tile) -> Floats:
        """What the network is given of a tile: float32 (1, slices, rows, columns)."""
        assert self.source is not None and isinstance(self.card.input, VolumeInput)
        return normalised(cut(self.source.grid.voxels, tile), self.card.input)[np.newaxis]

    def take(self, outputs: Mapping[str, Floats], tile: Tile) -> None:
        """Keep what the network says of a tile.

        Raises
        ------
        Refused
            MODEL_FAILED when outputs are missing, have another shape than the card says, or are not finite.
        """
        spec = self.card.output
        if isinstance(spec, BoxesOutput):
            self._marks += tile_marks(outputs, tile, self.card)
        elif self._stitched is not None:
            self._stitched.add(outputs, tile)
        if isinstance(spec, ProbabilityOutput):
            said = picture_logits(outputs, spec.probability, spec.activation, self.card)
        elif isinstance(spec, BoxesOutput | HeatmapOutput):
            first = spec.first_class if isinstance(spec, BoxesOutput) else 0
            said = picture_logits(outputs, spec.picture, spec.activation, self.card, first_class=first)
        if said:
            self._pictures.append(said)

    def places(self) -> tuple[Place, ...]:
        """Where lesions are, tiles put together."""
        spec = self.card.output
        if isinstance(spec, BoxesOutput):
            return merged(self._marks, nms_iou=spec.nms_iou, max_lesions=spec.max_lesions)
        return () if self._stitched is None else regions(self._stitched, self.card)

    def concluded(self, now_s: float) -> Analysis:
        """The end of a study whose tiles all went through the network; `now_s` is when they had."""
        assert self.source is not None
        highest = tuple(max(values) for values in zip(*self._pictures, strict=True)) if self._pictures else ()
        findings, marks = say_all(
            self.places(),
            self.source.volume,
            self.source.grid,
            self.card,
            study_uid=self.study.study_uid,
            inputs_digest=self.inputs_digest,
            whole=highest,
            flags=self.flags,
        )
        self.skipped.sort(key=lambda entry: entry[0])
        return Analysis(
            findings=findings,
            skipped=tuple(self.skipped),
            inputs_digest=self.inputs_digest,
            marks=marks,
            timings_s=self.timings_s(now_s),
        )
