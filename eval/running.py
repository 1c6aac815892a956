"""A model over a data set: every case through the node's own inference, kept as it is done, and a run at the end.

Called by ``radnode eval run``. What the engine is given of a case is `eval.feeding`, what survives a kill
`eval.keeping`; the record is `eval.runs`. Cases that the model learnt from are neither run nor judged.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeVar

from eval.cases import EvalCase, input_name
from eval.contamination import TrainingList, training_list_of
from eval.datasets import DatasetError, DatasetFile, parse_dataset
from eval.feeding import Fed, broken, fed, learnt_from, record_of
from eval.keeping import PARTIAL_FILE, Kept
from eval.layouts import read_cases
from eval.runs import (
    CARD_FILE,
    CASES_FILE,
    DATASET_FILE,
    FINDINGS_FILE,
    MANIFEST_FILE,
    RUN_FILE,
    RunError,
    RunRecord,
    Status,
    digest,
    environment,
    file_sha256,
    hardware,
    manifest_text,
    read_record,
    write_run,
    write_whole,
)
from eval.version import version
from eval.volumes import is_volume
from inference.engine import Analysis, Engine, EngineSettings
from inference.runtimes.base import DeviceOutOfMemory
from models.registry import InstalledModel

Bar = Callable[[str, int], Callable[[], None]]  # begins a bar of a name and a total; what it gives moves it by one
_AHEAD = 4  # cases on their way for each loader, so that none is idle
_SAME = {
    "model": "model",
    "model_digest": "model digest",
    "label": "label",
    "dataset": "data set",
    "dataset_digest": "file of the data set",
    "data_sha256": "input files",
    "card_sha256": "card",
    "runtime": "runtime",
}  # what may not change between the parts of a run, in words
_NO_LIST = "The card names no list of training files: nobody can tell whether the model learnt from cases of this set."
T = TypeVar("T")
S = TypeVar("S")


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What decides a run.

    Attributes
    ----------
    model : InstalledModel
    label : str
        Key of the card's label that is judged.
    dataset_file, root : Path
        The data set's file, and the folder of its files.
    out : Path
        Folder of the run.
    jobs : int
        Cases read at the same time.
    device, runtime : str
        As the engine takes them.
    resume : bool
        Go on with what lies in the folder; otherwise begin anew.
    command : str
        What repeats it, for the record.
    """

    model: InstalledModel
    label: str
    dataset_file: Path
    root: Path
    out: Path
    jobs: int = 2
    device: Literal["auto", "cpu", "cuda"] = "auto"
    runtime: Literal["auto", "onnx", "torch"] = "auto"
    resume: bool = True
    command: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """A data set read, its files named by their digests, and training cases told apart."""

    dataset: DatasetFile
    dataset_text: str
    card_text: str
    cases: tuple[EvalCase, ...]
    manifest: str
    learnt: frozenset[str]
    notes: tuple[str, ...]


def run(options: Options, *, bar: Bar = lambda name, total: lambda: None) -> RunRecord:
    """Run a model over a data set, or go on where an earlier call was cut off.

    Returns
    -------
    RunRecord
        As written to `run.json` of the folder.

    Raises
    ------
    DatasetError
        If the data set cannot be read.
    RunError
        If the folder holds another run, every case is a training case, or the model cannot be loaded.
    models.registry.WeightsError
        If a file of the model is not the one of its card.
    inference.runtimes.base.DeviceOutOfMemory
        If the device has no room; cases that are done are kept.
    """
    work = _work(options, bar)
    if len(work.learnt) == len(work.cases):
        raise RunError(
            f"all {len(work.cases)} case(s) of {work.dataset.reference} are in the training list of "
            f"{options.model.card.reference}: there is nothing left to judge it on"
        )
    with _opened(options) as (engine, runtime):
        begun = _begin(options, work, runtime)
        if begun.finished is not None:
            return begun
        with Kept(options.out / PARTIAL_FILE) as kept:
            _do(options, work, engine, kept, bar)
            record = _end(options, work, begun, kept)
    (options.out / PARTIAL_FILE).unlink()
    return record


def _work(options: Options, bar: Bar) -> _Work:
    try:
        dataset_text = options.dataset_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{options.dataset_file}: cannot be read: {error}") from error
    dataset = parse_dataset(dataset_text, options.dataset_file.name)
    cases = read_cases(dataset, options.root)
    fed(cases[0], dataset)  # tells what is missing before an hour of digests
    if any(is_volume(case.inputs[0]) for case in cases) and find_spec("SimpleITK") is None:
        raise DatasetError(f"{dataset.reference}: its volumes need SimpleITK: pip install 'radnode[train]'")
    digests = _digests(cases, options, bar)
    known = training_list_of(options.model)
    learnt = frozenset[str]() if known is None else _learnt(cases, digests, known, options, bar)
    rows = ((case.case, input_name(path, options.root), digests[path]) for case in cases for path in case.inputs)
    return _Work(
        dataset=dataset,
        dataset_text=dataset_text,
        card_text=(options.model.folder / CARD_FILE).read_text(encoding="utf-8"),
        cases=cases,
        manifest=manifest_text(rows),
        learnt=learnt,
        notes=(*_training_notes(known, learnt, len(cases)), *_twin_notes(cases, digests)),
    )


def _training_notes(known: TrainingList | None, learnt: frozenset[str], cases: int) -> tuple[str, ...]:
    if known is None:
        return (_NO_LIST,)
    if learnt:
        return (f"{len(learnt)} of {cases} cases are in the card's list of training files: not run, not judged.",)
    return (f"None of the {cases} cases is in the card's list of training files, by file or by picture.",)


def _twin_notes(cases: Sequence[EvalCase], digests: Mapping[Path, str]) -> tuple[str, ...]:
    """Cases that are one file under two names would count twice."""
    owners: defaultdict[str, set[str]] = defaultdict(set)
    for case in cases:
        for path in case.inputs:
            owners[digests[path]].add(case.case)
    twins = sorted({case for found in owners.values() if len(found) > 1 for case in found})
    if not twins:
        return ("No file is an input of two cases.",)
    return (f"{len(twins)} cases share a file with another case, the first is {twins[0]}: they count twice.",)


def _digests(cases: Sequence[EvalCase], options: Options, bar: Bar) -> dict[Path, str]:
    paths = [path for case in cases for path in case.inputs]
    return dict(zip(paths, _in_threads(file_sha256, paths, options.jobs, bar("files named", len(paths))), strict=True))


def _learnt(
    cases: Sequence[EvalCase], digests: Mapping[Path, str], known: TrainingList, options: Options, bar: Bar
) -> frozenset[str]:
    def seen(case: EvalCase) -> bool:
        return any(known.knows(path, digests[path]) for path in case.inputs)

    found = _in_threads(seen, cases, options.jobs, bar("held against training", len(cases)))
    return frozenset(case.case for case, learnt in zip(cases, found, strict=True) if learnt)


def _in_threads(step: Callable[[S], T], items: Iterable[S], jobs: int, moved: Callable[[], None]) -> list[T]:
    """`step` of every item, in their order, several at a time."""

    def one(item: S) -> T:
        done = step(item)
        moved()
        return done

    with ThreadPoolExecutor(jobs) as threads:
        return list(threads.map(one, items))


@contextmanager
def _opened(options: Options) -> Iterator[tuple[Engine, str]]:
    """The engine with the model, and in words what computes; closed at the end.

    Raises
    ------
    RunError
        If the model cannot be loaded.
    """
    settings = EngineSettings(loader_threads=options.jobs, device=options.device, runtime=options.runtime)
    engine = Engine([options.model], settings=settings)
    try:
        if engine.faults:
            raise RunError(f"the model cannot be loaded: {next(iter(engine.faults.values()))}")
        chosen = options.model.card.weights[0].runtime if options.runtime == "auto" else options.runtime
        yield engine, f"{chosen}, {next(iter(engine.devices.values()))}"
    finally:
        engine.close()


def _begin(options: Options, work: _Work, runtime: str) -> RunRecord:
    """The record of this run: a new one, or that of the run which is gone on with.

    Raises
    ------
    RunError
        If the folder holds a run of another model or other data.
    """
    record = _record(options, work, runtime)
    if not options.resume:
        for name in (RUN_FILE, CASES_FILE, FINDINGS_FILE, MANIFEST_FILE, CARD_FILE, DATASET_FILE, PARTIAL_FILE):
            (options.out / name).unlink(missing_ok=True)
    if (options.out / RUN_FILE).exists():
        before = read_record(options.out)
        if changed := [words for name, words in _SAME.items() if getattr(before, name) != getattr(record, name)]:
            raise RunError(
                f"{options.out.name} holds a run with another {' and '.join(changed)}; take another --out, or run with "
                "--anew to remove what it holds"
            )
        return before
    options.out.mkdir(parents=True, exist_ok=True)
    if any(options.out.iterdir()):
        raise RunError(f"{options.out.name} is not empty and holds no run: take another --out")
    for name, text in ((CARD_FILE, work.card_text), (DATASET_FILE, work.dataset_text), (MANIFEST_FILE, work.manifest)):
        write_whole(options.out / name, text)
    write_whole(options.out / RUN_FILE, record.model_dump_json(indent=1) + "\n")
    return record


def _record(options: Options, work: _Work, runtime: str) -> RunRecord:
    card, packages = options.model.card, environment()
    return RunRecord(
        kind="served",
        model=card.reference,
        model_digest=card.model_digest,
        weights={weights.file: weights.sha256 for weights in card.weights},
        label=options.label,
        runtime=runtime,
        dataset=work.dataset.reference,
        dataset_digest=digest(work.dataset_text),
        data_sha256=digest(work.manifest),
        card_sha256=digest(work.card_text),
        cases=len(work.cases),
        command=options.command,
        radnode=version(),
        environment_sha256=digest("\n".join(packages)),
        environment=packages,
        hardware=hardware(),
        settings={"jobs": options.jobs, "device": options.device, "runtime": options.runtime},
        notes=work.notes,
        started=datetime.now(UTC),
    )


def _do(options: Options, work: _Work, engine: Engine, kept: Kept, bar: Bar) -> None:
    """Every case that is not done yet, several on their way at a time; each is kept as soon as it is done."""
    moved = bar("cases", len(work.cases))
    for _ in kept.cases:
        moved()
    todo = iter([case for case in work.cases if case.case not in kept.cases])
    under_way: dict[Future[Analysis], Fed] = {}
    while True:
        for case in todo:
            if case.case in work.learnt:
                kept.add(learnt_from(case), None)
                moved()
                continue
            given = fed(case, work.dataset)
            under_way[engine.submit(options.model.card.reference, given.study)] = given
            if len(under_way) >= options.jobs * _AHEAD:
                break
        if not under_way:
            return
        for future in wait(under_way, return_when=FIRST_COMPLETED).done:
            _keep(kept, under_way.pop(future), future, options.label)
            moved()


def _keep(kept: Kept, given: Fed, future: Future[Analysis], label: str) -> None:
    try:
        analysis = future.result()
    except DeviceOutOfMemory:
        raise
    except Exception as error:  # noqa: BLE001  (the loop's edge: whatever it is, it is this case's alone)
        kept.add(broken(given.case, error), None)
    else:
        kept.add(record_of(given, analysis, label), analysis.findings)


def _end(options: Options, work: _Work, begun: RunRecord, kept: Kept) -> RunRecord:
    cases = [kept.cases[case.case] for case in work.cases]
    lines = (
        f'{{"case":{json.dumps(case.case, ensure_ascii=False)},"findings":{kept.findings[case.case]}}}\n'
        for case in cases
        if case.case in kept.findings
    )
    return write_run(
        options.out,
        begun.model_copy(update={"finished": datetime.now(UTC)}),
        cases,
        card=work.card_text,
        dataset=work.dataset_text,
        manifest=work.manifest,
        findings="".join(lines),
    )


def counted(statuses: Iterable[Status]) -> dict[Status, int]:
    """How many cases came to which end, those that none came to left out."""
    found = list(statuses)
    return {status: found.count(status) for status in Status if status in found}
