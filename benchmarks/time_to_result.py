"""Last image stored → result confirmed in Orthanc, for chest films, with the node's default settings.

Run: ``python -m benchmarks.time_to_result [--films 40]``. A real node as a child process, the chest model of
`models/zoo` on the CPU, real Orthanc as the archive, films of ../shared/data wrapped as DX. Two loads: one film at a
time, and a burst of eight. The clock is the ledger's: from the study's last image to the confirmation of its result.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.archives import Orthanc
from tests.conftest import SHARED
from tests.dx_wrapping import wrap_film_as_dx
from tests.running_node import RunningNode, to_orthanc

BURST = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=40)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = _measure(Path(folder), arguments.films)
    Console().print(table)


def _measure(folder: Path, count: int) -> Table:
    orthanc = Orthanc(folder)
    orthanc.start()
    node = RunningNode(
        folder / "node",
        {"models": {"include_zoo": True}, "receiver": {"processes": 2}, "destination": [to_orthanc(orthanc)]},
        routes=[{"name": "chest", "model": "chest-opacity", "destinations": ["pacs"], "match": {"modality": ["DX"]}}],
    )
    films = sorted((SHARED / "data" / "chest_xray_nih" / "images").glob("*.jpg"))[: 2 * count]
    table = Table(title="last image stored → result confirmed in Orthanc, seconds")
    for heading in ("load", "films", "median", "p95", "longest", "of it quiet time"):
        table.add_column(heading)
    with node:
        time.sleep(2)
        _spent(node, _send(node, folder, films[:1]))  # the first film of a process warms it
        one_by_one = [second for film in films[:count] for second in _spent(node, _send(node, folder, [film], "one"))]
        table.add_row("one at a time", *_figures(one_by_one))
        bursts: list[float] = []
        for start in range(count, 2 * count, BURST):
            bursts += _spent(node, _send(node, folder, films[start : start + BURST], "burst"))
        table.add_row(f"bursts of {BURST}", *_figures(bursts))
    orthanc.stop()
    return table


def _send(node: RunningNode, folder: Path, films: list[Path], load: str = "first") -> list[str]:
    paths, studies = [], []
    for film in films:
        dataset = wrap_film_as_dx(film, patient_id=f"{load}-{film.stem}")
        path = folder / f"{film.stem}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
        studies.append(str(dataset.StudyInstanceUID))
    node.send(paths)
    for path in paths:
        path.unlink()
    return studies


def _spent(node: RunningNode, studies: list[str]) -> list[float]:
    seconds = []
    for study_uid in studies:
        account = node.wait_for_outcome(study_uid)
        ended = [delivery["finished_at"] for delivery in account["deliveries"]]
        assert ended and all(delivery["state"] == "confirmed" for delivery in account["deliveries"]), account["outcome"]
        last = datetime.fromisoformat(account["last_received_at"])
        seconds.append((max(map(datetime.fromisoformat, ended)) - last).total_seconds())
    return seconds


def _figures(seconds: list[float]) -> tuple[str, ...]:
    ordered = sorted(seconds)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]
    figures = (statistics.median(ordered), p95, ordered[-1], 0.5)
    return (str(len(ordered)), *(f"{figure:.2f}" for figure in figures))


if __name__ == "__main__":
    main()
