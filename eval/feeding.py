"""What the engine is given of a case, and what is kept of its answer.

Called by `eval.running`. DICOM files go to the engine as the node sends them. Pictures and volumes of other kinds are
read here and take their header from the data set's file; intended use, guard, preprocessing, network and
postprocessing are the node's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from eval.cases import EvalCase, study_uid
from eval.datasets import DatasetError, DatasetFile, Header
from eval.runs import CaseRecord, MarkRecord, Status
from eval.volumes import VolumeError, is_volume, read_itk, slice_header, with_identity
from inference.findings import Finding, SeriesUid, SopUid, StudyUid
from inference.images import Image, ImageHeader, Volume
from inference.loading import load_film
from inference.postprocess import ScoredMark
from inference.refusals import Reason, Refusal, Refused
from inference.study_run import Analysis, StudyInput

_DECIMALS = 4  # of logits: beyond it they follow the size of the batch
_MM_DECIMALS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Fed:
    """A case on its way: what the engine was given, and by which names its pictures are known."""

    case: EvalCase
    study: StudyInput
    images: dict[str, str] = field(default_factory=dict)  # UID that a picture was given to its file's name


def fed(case: EvalCase, dataset: DatasetFile) -> Fed:
    """What the engine is given of a case.

    Raises
    ------
    DatasetError
        If its files are no DICOM files and the data set does not say what they are.
    """
    uid = study_uid(case.case)
    if case.dicom:
        return Fed(case=case, study=StudyInput(study_uid=uid, images=case.inputs))
    if dataset.header is None:
        raise DatasetError(
            f"{dataset.reference}: its files are no DICOM files; the part [header] must say what they are: modality, "
            "body part, view"
        )
    header, images = dataset.header, dict[str, str]()

    def picture(path: Path) -> Image:
        image = load_film(path)
        images[image.header.sop_instance_uid] = path.name
        return replace(image, header=_of_case(image.header, case, header))

    def volume(paths: Sequence[Path]) -> Volume:
        return _volume(paths[0], case, header)

    study = StudyInput(study_uid=uid, images=case.inputs, read_picture=picture, read_volume=volume)
    return Fed(case=case, study=study, images=images)


def _of_case(header: ImageHeader, case: EvalCase, given: Header) -> ImageHeader:
    """The header with what the data set and the case say in place of what a DICOM file would."""
    view = case.traits.get(given.view_trait, "") if given.view_trait else given.view
    return replace(
        header,
        modality=given.modality.upper(),
        body_part=given.body_part.upper(),
        view=view.upper(),
        laterality=case.traits.get(given.laterality_trait, "").upper() if given.laterality_trait else "",
        patient_age_years=case.numbers.get(given.age_number) if given.age_number else None,
        spacing_mm=given.spacing_mm or header.spacing_mm,
    )


def _volume(path: Path, case: EvalCase, given: Header) -> Volume:
    if not is_volume(path):
        raise Refused(Reason.UNREADABLE, "the model takes volumes, and this is none")
    try:
        found = read_itk(path)
    except VolumeError as error:  # its text names the file, which may be a patient's
        raise Refused(Reason.UNREADABLE, str(error).replace(path.name, "the file")) from error

    def header(sop: SopUid, series: SeriesUid, study: StudyUid) -> ImageHeader:
        own = _of_case(slice_header(found, sop, series, study, modality=given.modality), case, given)
        return replace(own, spacing_mm=found.spacing_mm[1:])

    return with_identity(found, header)


def record_of(given: Fed, analysis: Analysis, label: str) -> CaseRecord:
    """What the engine said of a case, with the truth of the case."""
    if analysis.findings is None:
        assert analysis.refusal is not None, "a study without findings was refused"
        return given.case.told(not_analysed(given.case, analysis.refusal, _seconds(analysis.timings_s)))
    whole = _whole(analysis.findings.findings, label)
    said = CaseRecord(
        case=given.case.case,
        patient=given.case.patient,
        status=Status.ANALYSED,
        score=whole.score,
        marks=tuple(_mark(mark, given) for mark in analysis.marks),
        flags=tuple(analysis.findings.flags),
        seconds=_seconds(analysis.timings_s),
        findings_sha256=analysis.findings.digest,
    )
    return given.case.told(said)


def not_analysed(case: EvalCase, refusal: Refusal, seconds: float | None = None) -> CaseRecord:
    """A case of which nothing is said: refused, or failed where it was the model that broke."""
    status = Status.FAILED if refusal.reason is Reason.MODEL_FAILED else Status.REFUSED
    return case.told(
        CaseRecord(case=case.case, patient=case.patient, status=status, reason=str(refusal), seconds=seconds)
    )


def broken(case: EvalCase, error: Exception) -> CaseRecord:
    """A case on which the software broke; its error's text may hold anything and is not kept."""
    reason = f"the software broke: {type(error).__name__}"
    return case.told(CaseRecord(case=case.case, patient=case.patient, status=Status.FAILED, reason=reason))


def learnt_from(case: EvalCase) -> CaseRecord:
    """A case that the card's list of training files has: it is neither run nor judged."""
    said = case.told(
        CaseRecord(
            case=case.case,
            patient=case.patient,
            status=Status.IN_TRAINING,
            reason="the card's list of training files has a file, or the picture in a file, of this case",
        )
    )
    return said.model_copy(update={"positive": None, "excluded": "the model learnt from it"})


def _whole(findings: Sequence[Finding], label: str) -> Finding:
    """The finding of the whole case, over all pictures and sides."""
    return next(one for one in findings if one.label == label and one.sop_instance_uid is None and not one.laterality)


def _mark(mark: ScoredMark, given: Fed) -> MarkRecord:
    several = len(given.case.inputs) > 1 and mark.sop_instance_uid is not None
    uid = str(mark.sop_instance_uid)
    box = None if mark.box is None else (mark.box.x_min, mark.box.y_min, mark.box.x_max, mark.box.y_max)
    return MarkRecord(
        label=mark.label,
        score=mark.score,
        logit=round(mark.logit, _DECIMALS),
        image=given.images.get(uid, uid) if several else None,
        box=box,
        center_mm=_rounded(mark.center_mm),
        size_mm=_rounded(mark.size_mm),
    )


def _rounded(place: tuple[float, float, float] | None) -> tuple[float, float, float] | None:
    if place is None:
        return None
    x, y, z = (round(value, _MM_DECIMALS) for value in place)
    return x, y, z


def _seconds(timings_s: Mapping[str, float]) -> float | None:
    """From the first byte read to findings, without the time for which the case waited to be let in."""
    spent = [timings_s[part] for part in ("load", "wait", "model") if part in timings_s]
    return round(sum(spent), 4) if spent else None
