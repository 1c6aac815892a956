"""One study on its way through the engine: what it asked for, what was loaded, refused and said of it so far.

Belongs to `inference.engine`, which moves a study through loading, batching and judging; the decisions about a study
as a whole (its digest, its refusal, its findings) are made here, without threads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from inference import postprocess
from inference.breast_findings import BreastView, breast_findings
from inference.findings import AnalysedImage, Finding, Findings, Flag, ModelIdentity, StudyUid
from inference.guard import AppearanceGuard, guard_flags
from inference.images import Image, LoadLimits, Volume
from inference.intended_use import check
from inference.loading import load_image, read_image_header
from inference.postprocess import Picture, PictureResult, ScoredMark
from inference.preprocess import ModelInput, prepare
from inference.refusals import Reason, Refusal, Refused
from models.card import ModelCard
from models.inputs import BreastInput, VolumeInput

# What tells the reader most when no image could be analysed: first what failed with a suitable image, then what may
# have been one, then why an image was not suitable.
_TELLING = (
    Reason.MODEL_FAILED, Reason.OUT_OF_RANGE, Reason.UNDECODABLE, Reason.TRANSFER_SYNTAX, Reason.NO_PIXELS,
    Reason.TOO_LARGE, Reason.CONTRADICTION, Reason.UNREADABLE, Reason.NOT_HU, Reason.GEOMETRY, Reason.INCOMPLETE,
    Reason.NOT_GREY, Reason.AGE, Reason.PRESENTATION,
    Reason.VIEW, Reason.BODY_PART, Reason.MODALITY, Reason.NOT_AN_IMAGE,
)  # fmt: skip
# An image that was left out for one of these might have been the one that mattered.
_FAULTS = frozenset(_TELLING[:8])


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyInput:
    """One study for one model.

    Attributes
    ----------
    study_uid : str
    images : tuple of Path
        DICOM files; those the model is not made for are left out with their reason.
    priority : int
        Higher is more urgent.
    incomplete : bool
        Images are known to be missing; the result says so.
    known_inputs_digest : str or None
        Digest of the inputs of the standing result: when it is the same again, nothing is run.
    read_picture, read_volume : callable or None
        How an evaluation reads pictures and volumes that are no DICOM files; whatever comes after is the same. They
        raise `Refused` and `OSError` as `inference.loading` does. None: DICOM.
    """

    study_uid: StudyUid | str
    images: tuple[Path, ...]
    priority: int = 0
    incomplete: bool = False
    known_inputs_digest: str | None = None
    read_picture: Callable[[Path], Image] | None = None
    read_volume: Callable[[Sequence[Path]], Volume] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Analysis:
    """What came of a study: findings, or a refusal, or nothing new.

    Attributes
    ----------
    findings : Findings or None
    refusal : Refusal or None
        Why nothing was analysed; the most telling reason of all images.
    skipped : tuple of (SOP Instance UID or file name, Refusal)
        Images that were left out.
    inputs_digest : str or None
        sha256 over what the model saw; None for a refusal.
    marks : tuple of ScoredMark
        All places that the network marks, below the threshold too, for evaluations; no result is written of them.
    unchanged : bool
        The inputs are those of `StudyInput.known_inputs_digest`: the earlier result stands.
    timings_s : mapping
        "load" (wall time from first to last image), "wait" (for a batch), "model" (in the network, whole batches),
        "total".
    """

    findings: Findings | None = None
    refusal: Refusal | None = None
    skipped: tuple[tuple[str, Refusal], ...] = ()
    inputs_digest: str | None = None
    marks: tuple[ScoredMark, ...] = ()
    unchanged: bool = False
    timings_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """A picture ready for the network, without its source pixels."""

    picture: Picture
    prepared: ModelInput
    pixel_digest: str
    flags: tuple[Flag, ...]


def load_for(
    card: ModelCard,
    path: Path,
    limits: LoadLimits,
    *,
    guard: AppearanceGuard | None = None,
    read: Callable[[Path], Image] | None = None,
) -> tuple[str, Loaded | Refusal]:
    """Load and prepare one image if the model is made for it; with its SOP Instance UID, or file name without one.

    With a `guard` a picture that is not of the kind the model was trained on is refused or flagged, as its card says.
    `read` is `StudyInput.read_picture`.
    """
    assert not isinstance(card.input, VolumeInput), "volumes are loaded by inference.volumes"
    name = path.name
    try:
        given = None if read is None else read(path)
        header = read_image_header(path, limits=limits) if given is None else given.header
        name = header.sop_instance_uid
        verdict = check(header, card.intended_use)
        if isinstance(verdict, Refusal):
            return name, verdict
        image = load_image(path, limits=limits) if given is None else given
        prepared = prepare(image, card.input)
        verdict += () if guard is None else guard_flags(guard, image, card.input)
    except Refused as refused:
        return name, refused.refusal
    picture = Picture(header=image.header, frame_number=image.frame_number)
    return name, Loaded(picture=picture, prepared=prepared, pixel_digest=image.pixel_digest, flags=verdict)


class StudyRun:
    """The state of one study in the engine. The engine sees to it that one thread at a time changes it."""

    def __init__(
        self,
        card: ModelCard,
        study: StudyInput,
        *,
        max_batch: int | None,
        on_stage: Callable[[str], None],
        started_s: float,
    ) -> None:
        self.card = card
        self.study = study
        self.max_batch = max_batch
        self.on_stage = on_stage
        self.future: Future[Analysis] = Future()
        self.to_load = len(study.images)
        self.to_infer = 0
        self.loaded: list[Loaded] = []
        self.skipped: list[tuple[str, Refusal]] = []
        self.results: list[tuple[Loaded, PictureResult]] = []
        self.times_s: dict[str, float] = {"submit": started_s}
        self.model_s = 0.0
        self.inputs_digest = ""

    def settle_inputs(self, now_s: float) -> None:
        """All is loaded: bring it into the canonical order and take its digest."""
        self.times_s["queued"] = now_s
        self.loaded.sort(key=lambda item: (item.picture.header.series_uid, item.picture.header.sop_instance_uid))
        self.skipped.sort(key=lambda entry: entry[0])
        self.inputs_digest = self._digest()

    @property
    def flags(self) -> tuple[Flag, ...]:
        """Cautions about all that is analysed."""
        raised = {flag for item in self.loaded for flag in item.flags}
        if self.study.incomplete or any(refusal.reason in _FAULTS for _, refusal in self.skipped):
            raised.add(Flag.STUDY_INCOMPLETE)
        return tuple(flag for flag in Flag if flag in raised)

    def _digest(self) -> str:
        """sha256 over what the model sees and what the result will say of it; nothing that was left out counts."""
        pictures = [
            (item.picture.header.sop_instance_uid, item.picture.header.laterality, item.pixel_digest)
            for item in self.loaded
        ]
        seen: dict[str, object] = {"pictures": sorted(pictures), "flags": self.flags}
        if isinstance(self.card.input, BreastInput):  # which views are held against each other hangs on their names
            headers = [item.picture.header for item in self.loaded]
            seen["views"] = sorted((header.sop_instance_uid, header.view) for header in headers)
        return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()

    def refused(self, now_s: float, refusal: Refusal | None = None) -> Analysis:
        """The end of a study of which nothing can be analysed."""
        why = refusal or telling([entry for _, entry in self.skipped])
        return Analysis(refusal=why, skipped=tuple(self.skipped), timings_s=self.timings_s(now_s))

    def unchanged(self, now_s: float) -> Analysis:
        """The end of a study whose inputs are those of the standing result."""
        return Analysis(
            unchanged=True,
            inputs_digest=self.inputs_digest,
            skipped=tuple(self.skipped),
            timings_s=self.timings_s(now_s),
        )

    def concluded(self, now_s: float) -> Analysis:
        """The end of a study whose pictures all went through the network."""
        if not self.results:
            return self.refused(now_s)
        self.results.sort(key=lambda pair: pair[0].picture.header.sop_instance_uid)
        self.skipped.sort(key=lambda entry: entry[0])
        card, said = self.card, [result for _, result in self.results]
        findings = Findings(
            model=identity(card),
            study_uid=StudyUid(self.study.study_uid),
            inputs_digest=self.inputs_digest,
            images=tuple(_analysed(item.picture) for item, _ in self.results),
            findings=self._findings(said),
            lesions=postprocess.study_lesions(
                said, study_uid=self.study.study_uid, model_digest=card.model_digest, inputs_digest=self.inputs_digest
            ),
            flags=self.flags,
        )
        return Analysis(
            findings=findings,
            skipped=tuple(self.skipped),
            inputs_digest=self.inputs_digest,
            marks=tuple(mark for result in said for mark in result.marks),
            timings_s=self.timings_s(now_s),
        )

    def _findings(self, said: Sequence[PictureResult]) -> tuple[Finding, ...]:
        """Of the study, of its pictures, and of each breast where the model is one of breasts."""
        found = postprocess.study_findings(said)
        if not isinstance(self.card.input, BreastInput):
            return found
        headers = [item.picture.header for item, _ in self.results]
        views = {header.sop_instance_uid: BreastView(side=header.laterality, view=header.view) for header in headers}
        return found + breast_findings(found, views, self.card.labels)

    def timings_s(self, now_s: float) -> dict[str, float]:
        """See `Analysis.timings_s`."""
        submit = self.times_s["submit"]
        load, queued = self.times_s.get("load", submit), self.times_s.get("queued", now_s)
        spent = {"load": queued - load, "model": self.model_s, "total": now_s - submit}
        if self.model_s:
            spent["wait"] = max(now_s - queued - self.model_s, 0.0)
        return spent


def identity(card: ModelCard) -> ModelIdentity:
    """Who the model is, as findings carry it."""
    return ModelIdentity(
        name=card.identity.name,
        version=card.identity.version,
        weights_digest=card.weights_digest,
        model_digest=card.model_digest,
        device_uid=card.device_uid,
    )


def _analysed(picture: Picture) -> AnalysedImage:
    header = picture.header
    return AnalysedImage(
        sop_instance_uid=header.sop_instance_uid,
        sop_class_uid=header.sop_class_uid,
        series_uid=header.series_uid,
        rows=header.rows,
        columns=header.columns,
    )


def telling(refusals: Sequence[Refusal]) -> Refusal:
    """Of several refusals the one that tells the reader most; of equals the first."""
    return min(refusals, key=_rank, default=Refusal(reason=Reason.NOT_AN_IMAGE, detail="the study has no images"))


def _rank(refusal: Refusal) -> int:
    return _TELLING.index(refusal.reason) if refusal.reason in _TELLING else len(_TELLING)
