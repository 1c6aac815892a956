"""One model's word on one study as a set of DICOM objects: START READING HERE.

`encode` is called by the worker once per destination profile. The same request gives the same bytes, on every machine
and at every attempt. Sending and confirming is `dicom_node.delivery`; which profile applies is the settings'.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydicom import Dataset

from dicom_node.results import gsps, mammo_cad, sc, seg, sr, texts
from dicom_node.results.header import SourceHeader, part_10, read_source_header
from dicom_node.results.moscow import pictures, report
from dicom_node.results.moscow.words import words_of
from dicom_node.results.provenance import language_of, stamp
from dicom_node.results.request import EncodeRequest, ObjectRef, ResultObject, Role
from dicom_node.results.retraction import RetractRequest, Withdrawal, encode_retraction
from dicom_node.results.uids import ResultKey, result_key
from inference.findings import Findings, SeriesUid, SopUid
from inference.refusals import Reason, Refused
from models.codes import Text

__all__ = [
    "EncodeRequest",
    "ObjectRef",
    "ResultObject",
    "RetractRequest",
    "Role",
    "Withdrawal",
    "encode",
    "encode_retraction",
]

# Order of the series in the study, counted from the profile's first series number.
_SERIES_ORDER = (
    Role.SR,
    Role.OVERLAY,
    Role.STATUS_PAGE,
    Role.SEGMENTATION,
    Role.NEGATIVE_SR,
    Role.PRESENTATION_STATE,
    Role.MAMMOGRAPHY_CAD_SR,
    Role.RETRACTION,
)


def encode(request: EncodeRequest) -> tuple[ResultObject, ...]:
    """Write the result set of one study.

    Returns
    -------
    tuple of ResultObject
        Reports first. Never empty when the profile writes overlays, except in the Moscow form for a study that was not
        analysed: there the exchange is told by message.

    Raises
    ------
    inference.refusals.Refused
        When no source file has the UIDs that an archive needs to file a result beside it, or when a picture to be
        shown cannot be decoded.
    """
    key = result_key(request)
    if request.profile.form == "moscow":
        return () if request.findings is None else tuple(_in_moscow_form(request, request.findings, key))
    if request.findings is None:
        return tuple(_without_lesions(request, _any_header(request), key))
    headers = _headers_of(request, request.findings)
    header = headers[request.findings.images[0].sop_instance_uid]
    if request.findings.is_positive:
        return tuple(_with_lesions(request, request.findings, headers, header, key))
    return tuple(_without_lesions(request, header, key))


def _with_lesions(
    request: EncodeRequest,
    findings: Findings,
    headers: dict[SopUid, SourceHeader],
    header: SourceHeader,
    key: ResultKey,
) -> list[ResultObject]:
    objects = []
    if request.profile.sr and findings.lesions:
        lesions = sr.lesion_report(request, findings, header, key)
        objects.append(_written(request, lesions, header, Role.SR, texts.SERIES_REPORT))
    if request.profile.overlay:
        for number, (capture, shown) in enumerate(sc.overlays(request, findings, headers, key), start=1):
            objects.append(_written(request, capture, shown, Role.OVERLAY, texts.SERIES_OVERLAY, number))
    if request.profile.segmentation:
        for number, (result, source) in enumerate(seg.segmentations(request, findings, headers, key), start=1):
            objects.append(_written(request, result, source, Role.SEGMENTATION, texts.SERIES_SEGMENTATION, number))
    if request.profile.presentation_state:
        for number, (result, source) in enumerate(gsps.presentation_states(request, findings, headers, key), start=1):
            objects.append(
                _written(request, result, source, Role.PRESENTATION_STATE, texts.SERIES_PRESENTATION, number)
            )
    if request.profile.mammography_cad_sr:
        cad = mammo_cad.mammography_cad_report(request, findings, headers, key)
        if cad is not None:
            objects.append(_written(request, cad, header, Role.MAMMOGRAPHY_CAD_SR, texts.SERIES_CAD))
    return objects


def _without_lesions(request: EncodeRequest, header: SourceHeader, key: ResultKey) -> list[ResultObject]:
    objects = []
    if request.profile.negative_sr:
        negative = sr.negative_report(request, header, key)
        objects.append(_written(request, negative, header, Role.NEGATIVE_SR, texts.SERIES_NEGATIVE))
    if request.profile.overlay:
        title = texts.SERIES_REFUSED if request.findings is None else texts.SERIES_NOTHING
        page = sc.status_page(request, header, key)
        objects.append(_written(request, page, header, Role.STATUS_PAGE, title))
    return objects


def _in_moscow_form(request: EncodeRequest, findings: Findings, key: ResultKey) -> Iterator[ResultObject]:
    """One report and one series, whatever was found; the first analysed image stands for patient and study."""
    header = read_source_header(request.sources[findings.images[0].sop_instance_uid])
    seen = words_of(request, findings, header, request.profile.language)
    chosen = pictures.shown_images(seen)
    told = words_of(request, findings, header, language_of(request, header))
    text_report = report.text_report(told, pictures.headers_of(chosen), key)
    yield _written(request, text_report, header, Role.SR, seen.form.report.series)
    for number, capture in enumerate(pictures.pictures(seen, chosen, key), start=1):
        yield _written(request, capture, header, Role.OVERLAY, seen.form.picture.series, number)


def _written(
    request: EncodeRequest, result: Dataset, header: SourceHeader, role: Role, title: Text, number: int = 1
) -> ResultObject:
    stamp(
        result,
        request=request,
        header=header,
        series_number=request.profile.first_series_number + _SERIES_ORDER.index(role),
        instance_number=number,
        title=title,
    )
    return ResultObject(
        role=role,
        sop_class_uid=str(result.SOPClassUID),
        sop_instance_uid=SopUid(str(result.SOPInstanceUID)),
        series_uid=SeriesUid(str(result.SeriesInstanceUID)),
        data=part_10(result),
    )


def _headers_of(request: EncodeRequest, findings: Findings) -> dict[SopUid, SourceHeader]:
    """Headers of the images that results are written beside: the first, and those with something to show."""
    wanted = {findings.images[0].sop_instance_uid}
    wanted |= {plane.sop_instance_uid for lesion in findings.lesions for plane in lesion.region.planes}
    wanted |= {finding.sop_instance_uid for finding in findings.findings if finding.sop_instance_uid is not None}
    return {uid: read_source_header(request.sources[uid]) for uid in sorted(wanted)}


def _any_header(request: EncodeRequest) -> SourceHeader:
    """The header of the first source, in the order of UIDs, that can be read."""
    last = Refused(Reason.UNREADABLE)
    for uid in sorted(request.sources):
        try:
            return read_source_header(request.sources[uid])
        except Refused as refused:
            last = refused
    raise last
