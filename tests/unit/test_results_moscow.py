"""The form of the Moscow experiment: one report of fourteen items, one series of pictures, words from a file."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmread

from dicom_node.ehr.profile_file import ProfileError
from dicom_node.results import drawing
from dicom_node.results.moscow.form import Item, read_form
from dicom_node.results.profile import Profile
from dicom_node.results.request import EncodeRequest, ObjectRef, Role
from dicom_node.results.result_set import encode
from dicom_node.results.uids import result_key
from dicom_node.settings import SettingsError, read_settings
from inference.findings import Flag, Presence
from inference.loading import load_image
from inference.refusals import Reason, Refusal
from models.card import ModelCard
from tests.dx_wrapping import write_dx
from tests.moscow_cases import MOSCOW, NAMES, four_views, items, moscow_request, read
from tests.results_cases import make_card, make_findings, make_request

SHIPPED = Path(__file__).resolve().parents[2] / "dicom_node/results/moscow/profiles/moscow.toml"
ORIGIN = "Заключение подготовлено программным обеспечением с применением технологий искусственного интеллекта"


@pytest.fixture(scope="module")
def film(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dx(min((shared_data / "chest_xray_nih" / "images").glob("*")), tmp_path_factory.mktemp("film"))


@pytest.fixture(scope="module")
def views(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return four_views(shared_data, tmp_path_factory.mktemp("views"))


@pytest.fixture(scope="module")
def slices(shared_data: Path) -> list[Path]:
    return sorted(shared_data.glob("ct_lidc/LIDC-IDRI-0002/*/*/*.dcm"))[:9]


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Profile]:
    """A profile whose file is the shipped one with some of its text replaced."""

    def make(*replaced: tuple[str, str]) -> Profile:
        text = SHIPPED.read_text(encoding="utf-8")
        for old, new in replaced:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / ("own.toml" if not (tmp_path / "own.toml").exists() else "another.toml")
        path.write_text(text, encoding="utf-8")
        return Profile(name="moscow", form="moscow", moscow_file=str(path))

    return make


def _said(request: EncodeRequest) -> dict[str, str]:
    return items(read(encode(request))[0])


def _bands(capture: Dataset, rows: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Header, anatomy and footer of a picture whose source has `rows` rows."""
    pixels = capture.pixel_array
    top = int(np.argmin(np.all(pixels[:, 0] == drawing.BAND, axis=1)))
    return pixels[:top], pixels[top : top + rows], pixels[top + rows :]


# the report -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lesions", [0, 1, 2, 7])
def test_a_chest_film_gets_one_report_of_fourteen_text_items_in_order(film: Path, lesions: int) -> None:
    report, _ = read(encode(moscow_request([film], lesions=lesions)))
    assert {one.ValueType for one in report.ContentSequence} == {"TEXT"}
    assert {one.RelationshipType for one in report.ContentSequence} == {"CONTAINS"}
    assert tuple(items(report)) == NAMES
    assert all(words.strip() for words in items(report).values())


def test_the_report_is_an_unverified_basic_text_sr_in_unicode_whose_author_is_the_model(film: Path) -> None:
    report, _ = read(encode(moscow_request([film])))
    card = make_card()
    assert report.SOPClassUID.name == "Basic Text SR Storage"
    assert (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag) == (
        "COMPLETE", "UNVERIFIED", "PRELIMINARY",
    )  # fmt: skip
    assert report.SpecificCharacterSet == "ISO_IR 192"
    (author,) = report.AuthorObserverSequence
    (equipment,) = report.ContributingEquipmentSequence
    assert author.ObserverType == "DEV" and author.DeviceUID == equipment.DeviceUID == card.device_uid
    assert author.ManufacturerModelName == equipment.ManufacturerModelName == card.identity.name
    assert "ContentTemplateSequence" not in report
    schemes = {one.ConceptNameCodeSequence[0].CodingSchemeDesignator for one in report.ContentSequence}
    assert schemes == {one.CodingSchemeDesignator for one in report.CodingSchemeIdentificationSequence}
    assert report.ConceptNameCodeSequence[0].CodeValue == "18748-4"


def test_the_report_names_every_analysed_image_as_evidence(views: list[Path]) -> None:
    report, _ = read(encode(moscow_request(views, cancer=True)))
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    named = {
        item.ReferencedSOPInstanceUID
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert named == {dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in views}


def test_the_items_say_what_the_study_the_card_and_the_findings_say(film: Path) -> None:
    request = moscow_request([film])
    said = _said(request)
    card = make_card()
    assert said["Модальность"] == "DX (рентгенография)"
    assert said["Область исследования"] == "Органы грудной клетки"
    assert said["Идентификатор исследования"] == request.study_uid
    assert said["Дата и время формирования заключения ИИ-сервисом"] == "02.03.2026 15:00:05 (UTC+03:00)"
    assert said["Предупреждение (происхождение)"] == ORIGIN
    assert said["Предупреждение (назначение)"] == "В исследовательских целях"
    assert said["Наименование сервиса"] == "Проверочный детектор"
    assert said["Версия сервиса"] == card.identity.version
    assert said["Назначение сервиса"] == card.intended_use.statement.ru
    assert card.model_digest[:16] in said["Технические данные"]
    assert "768 × 768" in said["Технические данные"]


def test_description_and_conclusion_are_the_same_words_as_in_the_standard_report(film: Path) -> None:
    said = _said(moscow_request([film]))
    standard = dcmread(BytesIO(encode(moscow_request([film], profile=Profile()))[0].data))
    words = [str(element.value) for element in standard.iterall() if element.keyword == "TextValue"]
    description, conclusion, recommendation = words[-5:-2]
    assert said["Описание"] == description
    assert said["Заключение"] == f"{conclusion}\r\n{recommendation}"


def test_technological_defects_tell_what_was_looked_at_and_what_was_not(film: Path, views: list[Path]) -> None:
    clean = _said(moscow_request([film]))["Технологические дефекты при выполнении исследования"]
    assert "Замечаний по этим признакам нет" in clean and "не оценивались" in clean
    card = make_card(cancer=True)
    findings = make_findings(views, card, lesions=0, flags=(Flag.STUDY_INCOMPLETE, Flag.LOSSY_COMPRESSION))
    findings = dataclasses.replace(findings, images=findings.images[:3])
    faulty = _said(make_request(views, card=card, findings=findings, profile=MOSCOW))
    defects = faulty["Технологические дефекты при выполнении исследования"]
    assert (
        "1\N{NO-BREAK SPACE}изображение из 4" in defects and "не полностью" in defects and "сжато с потерями" in defects
    )
    assert "Замечаний" not in defects and "не оценивались" in defects
    assert "3 из 4" in faulty["Технические данные"]


def test_a_study_without_body_part_is_named_by_what_the_model_looks_at(film: Path, tmp_path: Path) -> None:
    header = dcmread(film)
    del header.BodyPartExamined
    header.save_as(tmp_path / "bare.dcm")
    assert _said(moscow_request([tmp_path / "bare.dcm"]))["Область исследования"] == "лёгкое"


def test_an_english_profile_is_english_throughout(film: Path) -> None:
    report, (capture,) = read(encode(moscow_request([film], profile=MOSCOW.model_copy(update={"language": "en"}))))
    assert list(items(report))[-3:] == ["Description", "Conclusion", "User guide"]
    assert report.SeriesDescription == "AI: report" and capture.SeriesDescription == "AI: images"


def test_a_wrong_character_set_leaves_the_report_english_and_ascii(film: Path, tmp_path: Path) -> None:
    header = dcmread(film)
    header.PatientName = "X"
    header.SpecificCharacterSet = "ISO_IR 100"
    header.save_as(tmp_path / "wrong.dcm")
    raw = (tmp_path / "wrong.dcm").read_bytes()
    (tmp_path / "wrong.dcm").write_bytes(raw.replace(b"Chest ", "Грудь ".encode("cp1251"), 1))
    report, _ = read(encode(moscow_request([tmp_path / "wrong.dcm"])))
    assert len(items(report)) == len(NAMES)
    assert all(name.isascii() and words.isascii() for name, words in items(report).items())


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        ("demonstration", "Демонстрация работы программы"),
        ("research", "В исследовательских целях"),
        ("registered", "Регистрационное удостоверение РЗН 2026/1"),
    ],
)
def test_the_warning_is_that_of_the_use_that_the_card_states(use: str, expected: str, film: Path) -> None:
    data = make_card().model_dump(mode="json")
    data["identity"] |= {"use": use, "registration_number": "РЗН 2026/1" if use == "registered" else None}
    card = ModelCard.model_validate(data)
    request = make_request([film], card=card, findings=make_findings([film], card), profile=MOSCOW)
    assert _said(request)["Предупреждение (назначение)"].startswith(expected)


# the pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lesions", [0, 2])
def test_the_picture_shows_every_pixel_of_the_film_between_two_bands(film: Path, lesions: int) -> None:
    _, (capture,) = read(encode(moscow_request([film], lesions=lesions)))
    grey = np.rint(load_image(film).pixels * 255)
    _, shown, footer = _bands(capture, grey.shape[0])
    assert shown.shape[:2] == grey.shape
    as_displayed = np.all(np.abs(shown - grey[..., None]) <= 1, axis=2)
    assert as_displayed.all() if lesions == 0 else 0.9 < as_displayed.mean() < 1
    assert np.any(np.all(footer == drawing.AMBER, axis=2))


def test_the_limit_of_overlays_scales_no_picture_down(film: Path) -> None:
    small = MOSCOW.model_copy(update={"overlay_max_side_px": 512})
    _, (capture,) = read(encode(moscow_request([film], profile=small)))
    assert capture.Columns == 768


def test_a_picture_is_a_derived_secondary_capture_with_burned_in_words(film: Path) -> None:
    _, (capture,) = read(encode(moscow_request([film])))
    source = dcmread(film, stop_before_pixels=True)
    assert list(capture.ImageType) == ["DERIVED", "SECONDARY"]
    assert capture.BurnedInAnnotation == "YES" and capture.SpecificCharacterSet == "ISO_IR 192"
    assert capture.PatientOrientation == source.PatientOrientation
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID


@pytest.mark.parametrize("lesions", [0, 3])
def test_four_views_make_one_series_that_shows_them_all(views: list[Path], lesions: int) -> None:
    _, captures = read(encode(moscow_request(views, lesions=lesions, cancer=True)))
    assert len({one.SeriesInstanceUID for one in captures}) == 1
    assert [one.InstanceNumber for one in captures] == [1, 2, 3, 4]
    shown = {one.SourceImageSequence[0].ReferencedSOPInstanceUID: one.ImageLaterality for one in captures}
    headers = [dcmread(path, stop_before_pixels=True) for path in views]
    assert shown == {header.SOPInstanceUID: header.ImageLaterality for header in headers}
    assert all("Laterality" not in one for one in captures), "one series may not have two sides"


def test_of_a_volume_the_slices_with_marks_are_shown(slices: list[Path]) -> None:
    request = moscow_request(slices, lesions=2, planes=3)
    assert request.findings is not None
    marked = {plane.sop_instance_uid for lesion in request.findings.lesions for plane in lesion.region.planes}
    _, captures = read(encode(request))
    assert {one.SourceImageSequence[0].ReferencedSOPInstanceUID for one in captures} == marked
    assert len({one.Rows for one in captures}) == 1, "a stack must not jump"


def test_of_a_normal_volume_the_middle_slice_is_shown(slices: list[Path]) -> None:
    _, (capture,) = read(encode(moscow_request(slices, lesions=0)))
    middle = dcmread(slices[4], stop_before_pixels=True)
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == middle.SOPInstanceUID


def test_all_slices_are_shown_where_the_file_asks_for_them(slices: list[Path], changed: Callable[..., Profile]) -> None:
    profile = changed(('slices = "marked"', 'slices = "all"'))
    _, captures = read(encode(moscow_request(slices, profile=profile)))
    assert len(captures) == len(slices) and len({one.SeriesInstanceUID for one in captures}) == 1


def test_frames_of_a_multi_frame_image_are_chosen_like_slices(shared_data: Path) -> None:
    source = shared_data / "dicom_samples" / "pydicom-data_eCT_Supplemental.dcm"
    request = moscow_request([source], lesions=2)
    assert request.findings is not None
    _, captures = read(encode(request))
    frames = [one.SourceImageSequence[0].ReferencedFrameNumber for one in captures]
    assert frames == [lesion.region.key_plane.frame_number for lesion in request.findings.lesions]
    _, (normal,) = read(encode(moscow_request([source], lesions=0)))
    assert normal.SourceImageSequence[0].ReferencedFrameNumber == 2


def test_a_finding_without_a_place_in_a_multi_frame_image_is_shown_once(shared_data: Path) -> None:
    source = shared_data / "dicom_samples" / "pydicom-data_eCT_Supplemental.dcm"
    card = make_card()
    findings = make_findings([source], card, lesions=0, present_without_place=True)
    _, captures = read(encode(make_request([source], card=card, findings=findings, profile=MOSCOW)))
    assert len(captures) == 1


def test_a_lesion_that_names_the_only_frame_of_its_image_is_marked_like_one_that_names_none(film: Path) -> None:
    request = moscow_request([film], lesions=1)
    assert request.findings is not None
    (lesion,) = request.findings.lesions
    plane = dataclasses.replace(lesion.region.key_plane, frame_number=1)
    named = dataclasses.replace(lesion, region=dataclasses.replace(lesion.region, planes=(plane,)))
    findings = dataclasses.replace(request.findings, lesions=(named,))
    pictures = [read(encode(one))[1][0] for one in (request, dataclasses.replace(request, findings=findings))]
    assert pictures[0].PixelData == pictures[1].PixelData


def test_over_the_picture_rows_and_columns_are_those_of_the_film(film: Path, changed: Callable[..., Profile]) -> None:
    profile = changed(('placement = "outside"', 'placement = "over"'))
    _, (capture,) = read(encode(moscow_request([film], profile=profile)))
    source = dcmread(film, stop_before_pixels=True)
    assert (capture.Rows, capture.Columns) == (source.Rows, source.Columns)
    assert np.any(np.all(capture.pixel_array[-source.Rows // 8 :] == drawing.AMBER, axis=2))


def test_words_that_would_cover_a_small_picture_stand_outside_of_it(
    tmp_path: Path, shared_data: Path, changed: Callable[..., Profile]
) -> None:
    with Image.open(min((shared_data / "chest_xray_nih" / "images").glob("*"))) as picture:
        picture.convert("L").resize((200, 160)).save(tmp_path / "small.png")
    small = write_dx(tmp_path / "small.png", tmp_path)
    profile = changed(('placement = "outside"', 'placement = "over"'))
    _, (capture,) = read(encode(moscow_request([small], profile=profile)))
    assert capture.Rows > 160 + 100


def _header_pixels(request: EncodeRequest) -> bytes:
    _, captures = read(encode(request))
    return _bands(captures[0], 768)[0].tobytes()


def test_normal_undetermined_and_unplaced_are_three_different_headers(film: Path) -> None:
    card = make_card()
    normal = make_findings([film], card, lesions=0)
    (statement,) = normal.findings
    undetermined = dataclasses.replace(
        normal, findings=(dataclasses.replace(statement, presence=Presence.UNDETERMINED),)
    )
    unplaced = make_findings([film], card, lesions=0, present_without_place=True)
    headers = {
        _header_pixels(make_request([film], card=card, findings=one, profile=MOSCOW))
        for one in (normal, undetermined, unplaced)
    }
    assert len(headers) == 3


@pytest.mark.parametrize(
    ("words", "band"),
    [
        ('ru = "Целевая патология не выявлена"', 0),
        (f'origin.ru = "{ORIGIN}"', 2),
        ('ru = "В исследовательских целях"', 2),
        ('ru = "Сервис: {service} · версия {version} · {time}"', 2),
    ],
)
def test_words_of_the_file_are_in_the_pixels_of_their_band(
    words: str, band: int, film: Path, changed: Callable[..., Profile]
) -> None:
    key, _, value = words.partition(' = "')
    other = changed((words, f'{key} = "Иначе {value}'))
    before = _bands(read(encode(moscow_request([film], lesions=0)))[1][0], 768)
    after = _bands(read(encode(moscow_request([film], lesions=0, profile=other)))[1][0], 768)
    differ = [one.tobytes() != two.tobytes() for one, two in zip(before, after, strict=True)]
    assert differ == [number == band for number in range(3)]


# identity, refusals, the file -----------------------------------------------------------------------------------------


def test_a_second_run_writes_equal_bytes(views: list[Path]) -> None:
    request = moscow_request(views, cancer=True)
    assert encode(request) == encode(request)


def test_what_the_file_says_is_part_of_every_uid_and_how_it_is_written_is_not(
    film: Path, changed: Callable[..., Profile]
) -> None:
    same = changed(("# The order of these lines", "# A remark. The order of these lines"))
    other = changed(("Целевая патология не выявлена", "Патологии не выявлено"))
    keys = [result_key(moscow_request([film], profile=one)) for one in (MOSCOW, same)]
    assert keys[0] == keys[1]
    assert result_key(moscow_request([film], profile=other)).instance_uid(Role.SR) != keys[0].instance_uid(Role.SR)


def test_the_digest_of_a_standard_profile_is_what_it_was_before_there_was_another_form() -> None:
    assert Profile().digest == "4abd5c58810a1f7127f228f95bc85bbc38cecb130e5e4c2657a10e73aac19479"


@pytest.mark.parametrize("known_model", [True, False])
def test_a_study_that_was_not_analysed_gets_no_object(film: Path, known_model: bool) -> None:
    refusal = Refusal(reason=Reason.VIEW, detail="LL")
    card = make_card() if known_model else None
    assert encode(make_request([film], card=card, refusal=refusal, profile=MOSCOW)) == ()


def test_a_successor_names_the_report_it_supersedes(film: Path) -> None:
    old, *_ = encode(moscow_request([film]))
    known = ObjectRef(
        study_uid=moscow_request([film]).study_uid,
        series_uid=old.series_uid,
        sop_class_uid=old.sop_class_uid,
        sop_instance_uid=old.sop_instance_uid,
    )
    request = dataclasses.replace(moscow_request([film], lesions=1), predecessors=(known,))
    report, _ = read(encode(request))
    (study,) = report.PredecessorDocumentsSequence
    assert study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == old.sop_instance_uid


def test_the_file_names_service_purpose_and_guide_of_a_model(film: Path, changed: Callable[..., Profile]) -> None:
    service = """[services.test-opacity]
name = { ru = "Сервис А", en = "Service A" }
purpose = { ru = "Выявление затемнений", en = "Detection of opacities" }
guide = { ru = "https://example.org/guide", en = "https://example.org/guide" }

[report]"""
    said = _said(moscow_request([film], profile=changed(("[services]\n", ""), ("[report]", service))))
    assert said["Наименование сервиса"] == "Сервис А"
    assert said["Назначение сервиса"] == "Выявление затемнений"
    assert said["Руководство пользователя"] == "https://example.org/guide"


def test_the_order_of_the_items_is_that_of_the_file(film: Path, changed: Callable[..., Profile]) -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("  { item = ")]
    profile = changed(("\n".join(lines), "\n".join(reversed(lines))))
    assert tuple(_said(moscow_request([film], profile=profile))) == tuple(reversed(NAMES))


def test_the_shipped_file_names_every_item() -> None:
    assert {one.item for one in read_form("moscow").report.items} == set(Item)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            'item = "guide", code = "MOS-14"',
            'item = "time", code = "MOS-14"',
            "guide is not there; time is there twice",
        ),
        ('code = "MOS-14"', 'code = "MOS-13"', "code 'MOS-13' is used twice"),
        (' · {time}", en', '", en', "{service}, {version}, {time}"),
        ("Europe/Moscow", "Europe/Moskau", "no time zone 'Europe/Moskau'"),
        ("origin.ru", "orogin.ru", "warnings.orogin"),
        (f'origin.ru = "{ORIGIN}"', 'origin.ru = " "', "words are missing"),
        ('ru = "Модальность"', f'ru = "{"М" * 65}"', "65 characters, DICOM allows 64"),
        ("[warnings.purpose.registered]", "[warnings.purpose.sold]", "warnings.purpose"),
        ("Порог срабатывания: {label}", "Порог срабатывания: {labels}", "{label}, {percent}"),
    ],
)
def test_a_fault_of_the_file_is_named_when_the_settings_are_read(
    old: str, new: str, told: str, changed: Callable[..., Profile], tmp_path: Path
) -> None:
    changed((old, new))
    settings = tmp_path / "radnode.toml"
    settings.write_text('[[profile]]\nname = "moscow"\nform = "moscow"\nmoscow_file = "own.toml"\n', encoding="utf-8")
    with pytest.raises(SettingsError, match=r"own\.toml") as caught:
        read_settings(settings)
    assert told in str(caught.value)


def test_the_file_is_looked_for_beside_the_settings(changed: Callable[..., Profile], tmp_path: Path) -> None:
    changed()
    settings = tmp_path / "radnode.toml"
    settings.write_text('[[profile]]\nname = "moscow"\nform = "moscow"\nmoscow_file = "own.toml"\n', encoding="utf-8")
    (profile,) = read_settings(settings).profile
    assert profile.moscow_file == str(tmp_path / "own.toml")
    assert profile.digest == MOSCOW.digest


def test_a_file_that_is_not_there_is_a_fault_of_the_settings(tmp_path: Path) -> None:
    settings = tmp_path / "radnode.toml"
    settings.write_text('[[profile]]\nform = "moscow"\nmoscow_file = "none.toml"\n', encoding="utf-8")
    with pytest.raises(SettingsError, match=r"none\.toml: cannot be read"):
        read_settings(settings)
    with pytest.raises(ProfileError):
        read_form(str(tmp_path / "none.toml"))


def test_monitoring_expects_pictures_and_a_report_whatever_was_found() -> None:
    profile = Profile(form="moscow", negative_sr=False)
    assert profile.writes_pictures and profile.writes_positive_report and profile.writes_negative_report
    standard = Profile()
    assert standard.writes_pictures and standard.writes_positive_report and not standard.writes_negative_report


def test_the_settings_of_the_guide_are_read_as_they_stand(tmp_path: Path) -> None:
    page = (SHIPPED.parents[4] / "docs" / "howto" / "moscow.md").read_text(encoding="utf-8")
    section = page.partition("## Pictures and report in the archive")[2].partition("\n## ")[0]
    (tmp_path / "radnode.toml").write_text(section.partition("```toml\n")[2].partition("```")[0], encoding="utf-8")
    settings = read_settings(tmp_path / "radnode.toml")
    assert settings.profile_of("eris").form == "moscow"
    assert all(f"| {name} |" in section or name in ("Описание", "Заключение") for name in NAMES)


def test_the_settings_of_the_guide_can_stand_beside_destinations_that_name_no_profile(tmp_path: Path) -> None:
    page = (SHIPPED.parents[4] / "docs" / "howto" / "moscow.md").read_text(encoding="utf-8")
    others = """
        [[destination]]
        name = "archive"
        kind = "pacs"
        host = "127.0.0.1"
        port = 4242
        called_ae = "ORTHANC"
        [[record]]
        name = "ris"
        kind = "mllp"
        host = "127.0.0.1"
        port = 2575
    """
    shown = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "radnode.toml").write_text("\n".join([*shown, others]), encoding="utf-8")
    settings = read_settings(tmp_path / "radnode.toml")
    assert [settings.profile_of(name).form for name in ("eris", "moscow", "archive", "ris")] == [
        "moscow",
        "moscow",
        "standard",
        "standard",
    ]
