"""Measures FROC and CPM against a plain implementation of the official LUNA16 algorithm: time, and that both agree.

Against whom: `tests.plain_luna16`, the rules written as loops with scikit-learn's `roc_curve`, on the same drawn set
(888 scans, 55,000 marks, 1,186 findings, 35,000 excluded ones). Run ``python -m benchmarks.froc [--resamples N]
[--json]`` from the project's folder. Prints seconds, the ratio, and the largest difference of a point; the plain
resamples are timed on a share of them (``--plain-resamples``) and scaled. `whole_command_s` is ``radnode eval froc``
in a process of its own on the same set as files, with all resamples.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from eval.froc import SensitivityAtRates
from eval.hits import Hit, Places, hit_rule
from eval.luna16 import FALSE_MARKS_PER_SCAN, Lesions, Marks, match, performance
from tests.plain_luna16 import Judged, PlainLesion, PlainMark, bootstrap, judge, sensitivities

SCANS, MARKS, LESIONS, EXCLUDED = 888, 55_000, 1186, 35_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Seconds of both, and how they differ."""

    scans: int
    marks: int
    resamples: int
    processor: str
    cpm: float
    point_s: float
    plain_point_s: float
    point_ratio: float
    largest_difference: float  # of a sensitivity at the seven rates
    bootstrap_s: float
    plain_bootstrap_s: float  # scaled from the share that was run
    bootstrap_ratio: float
    largest_bootstrap_difference: float
    whole_command_s: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Drawn:
    """A set, as arrays and as the plain implementation wants it."""

    marks: Marks
    lesions: Lesions
    plain_marks: list[PlainMark]
    plain_lesions: list[PlainLesion]
    plain_excluded: list[PlainLesion]

    @property
    def scans(self) -> list[str]:
        """Ids of the scans."""
        return [f"1.2.{scan}" for scan in range(SCANS)]


def drawn(seed: int = 1) -> Drawn:
    """A detector that finds most lesions, with marks all over chests of 300 mm, scores with four digits (some tie)."""
    random = np.random.default_rng(seed)
    scan = np.concatenate([random.integers(0, SCANS, LESIONS), random.integers(0, SCANS, EXCLUDED)])
    center = random.uniform(-150, 150, (scan.size, 3)).round(3)
    diameter = np.concatenate([random.gamma(4, 2, LESIONS).round(3) + 3, np.full(EXCLUDED, -1.0)])
    found = random.permutation(LESIONS)[: int(LESIONS * 0.93)]
    near = center[found] + random.normal(0, 1, (found.size, 3))
    mark_scan = np.concatenate([scan[found], random.integers(0, SCANS, MARKS - found.size)])
    mark_center = np.concatenate([near, random.uniform(-150, 150, (MARKS - found.size, 3))]).round(3)
    score = np.concatenate([random.beta(4, 2, found.size), random.beta(1, 5, MARKS - found.size)]).round(4)
    ids = [f"1.2.{one}" for one in range(SCANS)]
    plain = [
        PlainLesion(ids[one], (x, y, z), size)
        for one, (x, y, z), size in zip(scan.tolist(), center.tolist(), diameter.tolist(), strict=True)
    ]
    return Drawn(
        marks=Marks(
            scan=mark_scan.astype(np.intp),
            places=Places(center=mark_center, size=np.full((MARKS, 3), np.nan)),
            score=score,
        ),
        lesions=Lesions(
            scan=scan.astype(np.intp),
            places=Places(center=center, size=np.repeat(np.where(diameter < 0, 10.0, diameter)[:, None], 3, axis=1)),
            excluded=np.arange(scan.size) >= LESIONS,
        ),
        plain_marks=[
            PlainMark(ids[one], (x, y, z), value)
            for one, (x, y, z), value in zip(mark_scan.tolist(), mark_center.tolist(), score.tolist(), strict=True)
        ],
        plain_lesions=plain[:LESIONS],
        plain_excluded=plain[LESIONS:],
    )


def plainly_judged(one: Drawn) -> list[Judged]:
    """The plain matching, a scan at a time on its own rows, as the official script keeps them by scan."""
    of_scan: dict[str, tuple[list[PlainMark], list[PlainLesion], list[PlainLesion]]] = {
        scan: ([], [], []) for scan in one.scans
    }
    for mark in one.plain_marks:
        of_scan[mark.scan][0].append(mark)
    for lesion in one.plain_lesions:
        of_scan[lesion.scan][1].append(lesion)
    for lesion in one.plain_excluded:
        of_scan[lesion.scan][2].append(lesion)
    return [line for scan, rows in of_scan.items() for line in judge([scan], *rows)]


def write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """A table of the set, as a file."""
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def whole_command(one: Drawn, folder: Path, resamples: int) -> float:
    """Seconds of the command from its start to its end, reading included; it must give the same CPM."""
    coordinates = ("seriesuid", "coordX", "coordY", "coordZ")
    truth, excluded = (
        write(folder / name, (*coordinates, "diameter_mm"), ((row.scan, *row.at, row.diameter) for row in rows))
        for name, rows in (("annotations.csv", one.plain_lesions), ("excluded.csv", one.plain_excluded))
    )
    marks = write(
        folder / "marks.csv", (*coordinates, "probability"), ((row.scan, *row.at, row.score) for row in one.plain_marks)
    )
    (folder / "seriesuids.csv").write_text("\n".join(one.scans) + "\n")
    begun = time.perf_counter()
    subprocess.run(
        [Path(sys.executable).parent / "radnode", "eval", "froc", "--truth", truth, "--excluded", excluded,
         "--marks", marks, "--scans", folder / "seriesuids.csv", "--bootstrap", str(resamples),
         "--json", folder / "froc.json"],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return time.perf_counter() - begun


def measure(resamples: int, plain_resamples: int) -> Measured:
    """Run both on one set."""
    one = drawn()
    begun = time.perf_counter()
    matched = match(SCANS, one.marks, one.lesions, hit_rule(Hit.DISTANCE).compare).detections
    points = SensitivityAtRates(matched, FALSE_MARKS_PER_SCAN).of_all()
    point_s = time.perf_counter() - begun

    begun = time.perf_counter()
    judged = plainly_judged(one)
    plain_points = sensitivities(judged, SCANS)
    plain_point_s = time.perf_counter() - begun

    begun = time.perf_counter()
    result = performance(matched, resamples=resamples, seed=3)
    bootstrap_s = time.perf_counter() - begun

    random = np.random.default_rng(3)
    draws = [random.integers(0, SCANS, SCANS).tolist() for _ in range(plain_resamples)]
    begun = time.perf_counter()
    plain_drawn = bootstrap(judged, one.scans, draws)
    plain_bootstrap_s = (time.perf_counter() - begun) * resamples / plain_resamples
    own_drawn = SensitivityAtRates(matched, FALSE_MARKS_PER_SCAN).resampled(plain_resamples, 3)

    with tempfile.TemporaryDirectory() as folder:
        whole_command_s = whole_command(one, Path(folder), resamples)
        assert json.loads((Path(folder) / "froc.json").read_text())["cpm"] == result.cpm.value
    return Measured(
        scans=SCANS,
        marks=MARKS,
        resamples=resamples,
        processor=platform.processor() or platform.machine(),
        cpm=result.cpm.value,
        point_s=point_s,
        plain_point_s=plain_point_s,
        point_ratio=plain_point_s / point_s,
        largest_difference=float(np.abs(points - plain_points).max()),
        bootstrap_s=bootstrap_s,
        plain_bootstrap_s=plain_bootstrap_s,
        bootstrap_ratio=plain_bootstrap_s / bootstrap_s,
        largest_bootstrap_difference=float(np.abs(own_drawn - np.asarray(plain_drawn)).max()),
        whole_command_s=whole_command_s,
    )


def main() -> None:
    """Print the figures, a line each, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--plain-resamples", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = asdict(measure(arguments.resamples, arguments.plain_resamples))
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        for name, value in figures.items():
            print(f"{name:30} {value:.4g}" if isinstance(value, float) else f"{name:30} {value}")


if __name__ == "__main__":
    main()
