"""Images, order and record against each other: what parks a document, and that no reason holds a value."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_node.ehr.context import Sex
from dicom_node.ehr.header import read_header
from dicom_node.ehr.lookup import Known, LookupKey, assemble, look_up
from dicom_node.ehr.lookup.known import merged
from dicom_node.ehr.lookup.sources import TableSettings, TableSource
from dicom_node.ehr.reconciliation import FIELDS, HEADER, OTHER_STUDY, Kind, Reconciliation, reconcile, settled
from tests.names_and_schemes import FAMILIES, GIVEN, SCHEMES
from tests.raw_headers import write_header

PERSON: Known = {
    "patient": {
        "identifier": {"value": "77-1"},
        "name": {"family": "Щербаков", "given": "Юрий", "patronymic": "Ильич"},
        "birth_date": date(1961, 4, 12),
        "sex": Sex.MALE,
        "snils": "11223344595",
    },
    "order": {"accession_number": "A100"},
}
OTHER_VALUES: Mapping[str, tuple[object, Kind]] = {
    "patient.name.family": ("Шербаков", Kind.FAMILY_DIFFERS),
    "patient.name.given": ("Юлий", Kind.GIVEN_DIFFERS),
    "patient.name.patronymic": ("Иванович", Kind.PATRONYMIC_DIFFERS),
    "patient.birth_date": (date(1961, 12, 4), Kind.DAY_AND_MONTH_SWAPPED),
    "patient.sex": (Sex.FEMALE, Kind.DIFFERENT),
    "patient.snils": ("08765430300", Kind.DIFFERENT),
    "patient.identifier.value": ("77-2", Kind.DIFFERENT),
    "order.accession_number": ("A101", Kind.DIFFERENT),
}


def changed(known: Known, **changes: object) -> dict[str, Any]:
    """`known` with other values, keyed with ``__`` for the dots; None takes a field away."""
    tree: dict[str, Any] = merged(known)
    for path, value in changes.items():
        *way, last = path.split("__")
        place = tree
        for name in way:
            place[name] = dict(place.get(name, {}))
            place = place[name]
        if value is None:
            place.pop(last, None)
        else:
            place[last] = value
    return tree


def field(path: str) -> str:
    """The compared field of which a value at `path` is a part."""
    return next(one for one in FIELDS if path == one or path.startswith(f"{one}."))


def reconciled(header: Known, *said: Known, **more: Any) -> Reconciliation:
    named = [(f"source {at}", known) for at, known in enumerate(said)]
    return reconcile(header, named, **({"guessed_character_set": False} | more))


def kinds(found: Reconciliation) -> set[tuple[str, Kind]]:
    return {(one.field, one.kind) for one in found.disagreements}


def test_the_same_person_everywhere_agrees_and_everything_was_compared() -> None:
    found = reconciled(PERSON, PERSON, PERSON, others=[PERSON])

    assert found.agrees
    assert (found.compared, found.unsaid, found.reason) == (FIELDS, (), "")


def test_a_whole_header_decides_alone_when_no_source_answered() -> None:
    found = reconciled(PERSON)

    assert found.agrees
    assert (found.compared, found.unsaid) == ((), FIELDS)


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ({"patient__name": None}, "patient.name"),
        ({"patient__name__given": None}, "patient.name"),
        ({"patient__name__given": "Ю."}, "patient.name"),
        ({"patient__birth_date": None}, "patient.birth_date"),
        ({"patient__identifier": None}, "patient.identifier"),
        ({"patient__identifier__value": " "}, "patient.identifier"),
    ],
)
def test_a_header_that_is_not_whole_does_not_decide_alone(change: dict[str, object], missing: str) -> None:
    found = reconciled(changed(PERSON, **change))

    assert kinds(found) == {(missing, Kind.MISSING)}
    assert missing in found.reason


@pytest.mark.parametrize("lacking", ["patient__sex", "patient__snils", "order", "patient__name__patronymic"])
def test_sex_snils_patronymic_and_accession_number_may_lack(lacking: str) -> None:
    assert reconciled(changed(PERSON, **{lacking: None})).agrees


@pytest.mark.parametrize("path", OTHER_VALUES)
@pytest.mark.parametrize("who", ["header", "order", "record"])
def test_one_other_value_anywhere_parks_and_is_named(path: str, who: str) -> None:
    value, kind = OTHER_VALUES[path]
    said = {"header": PERSON, "order": PERSON, "record": PERSON}
    said[who] = changed(PERSON, **{path.replace(".", "__"): value})

    found = reconcile(
        said["header"],
        [("order", said["order"]), ("record", said["record"])],
        guessed_character_set=False,
    )

    wrong = HEADER if who == "header" else who
    assert kinds(found) >= {(field(path), kind)}
    assert all(wrong in one.sources for one in found.disagreements if one.kind is kind)
    assert field(path) in found.reason
    assert wrong in found.reason
    assert "radnode retry" in found.reason


@pytest.mark.parametrize(
    "change",
    [
        {"patient__sex": Sex.OTHER},
        {"patient__sex": None},
        {"patient__snils": None},
        {"patient__snils": "112-233-445 95"},
        {"patient__birth_date": None},
        {"patient__name": None},
        {"patient__name__patronymic": None},
        {"patient__name": {"family": "SHCHERBAKOV", "given": "IURII"}},
        {"patient__name": {"family": "Щербаков", "given": "Ю.И."}},
        {"patient__identifier": None},
        {"patient__identifier": {"value": "MIS-5", "system": "1.2.643.5"}},
        {"order": None},
    ],
)
def test_what_a_record_leaves_out_or_writes_otherwise_is_no_disagreement(change: dict[str, object]) -> None:
    header = changed(PERSON, patient__identifier__system="1.2.643.4")

    assert reconciled(header, changed(PERSON, **change)).agrees


def test_numbers_are_compared_unless_both_systems_are_named_and_differ() -> None:
    named = changed(PERSON, patient__identifier={"value": "MIS-5", "system": "1.2.643.5"})

    assert kinds(reconciled(PERSON, named)) == {("patient.identifier", Kind.DIFFERENT)}
    same = changed(PERSON, patient__identifier__system="urn:oid:1.2.643.5")
    assert reconciled(same, changed(PERSON, patient__identifier__system="1.2.643.5")).agrees


@pytest.mark.parametrize("missing_in", ["header", "record"])
def test_without_a_birth_date_name_and_a_number_have_to_agree(missing_in: str) -> None:
    dateless = changed(PERSON, patient__birth_date=None)
    pair = (dateless, PERSON) if missing_in == "header" else (PERSON, dateless)
    assert reconciled(*pair).agrees

    numberless = [changed(one, patient__identifier__system=f"1.2.{at}") for at, one in enumerate(pair)]
    assert reconciled(*numberless).agrees  # the SNILS does
    numberless[1] = changed(numberless[1], patient__snils=None)
    assert kinds(reconciled(*numberless)) == {
        ("patient.birth_date", Kind.NOT_CONFIRMED),
        ("patient.identifier", Kind.NOT_CONFIRMED),
    }
    initial = changed(pair[1], patient__name__given="Ю.")
    assert kinds(reconciled(pair[0], initial)) == {
        ("patient.name", Kind.NOT_CONFIRMED),
        ("patient.birth_date", Kind.NOT_CONFIRMED),
    }


def test_a_source_that_names_nobody_confirms_nothing_and_leaves_the_header_to_itself() -> None:
    only_number = {"patient": {"snils": "08765430300"}, "encounter": {"identifier": {"value": "E"}}}
    snilsless = changed(PERSON, patient__snils=None)

    assert reconciled(snilsless, only_number).agrees
    assert kinds(reconciled(changed(snilsless, patient__birth_date=None), only_number)) == {
        ("patient.birth_date", Kind.MISSING)
    }


def test_an_empty_patient_id_parks_even_where_the_record_agrees() -> None:
    header = changed(PERSON, patient__identifier=None)

    assert kinds(reconciled(header, PERSON)) == {("patient.identifier", Kind.MISSING)}


@pytest.mark.parametrize("number", ["11223344596", "112-233-445 96", "1122334459", "X"])
def test_a_wrong_snils_parks_wherever_it_stands(number: str) -> None:
    wrong = changed(PERSON, patient__snils=number)

    assert kinds(reconciled(wrong, PERSON)) == {("patient.snils", Kind.WRONG_SUM)}
    found = reconciled(PERSON, wrong)
    assert [(one.sources, one.kind) for one in found.disagreements] == [(("source 0",), Kind.WRONG_SUM)]
    assert number not in found.reason or number == "X"


@pytest.mark.parametrize("path", [path for path in OTHER_VALUES if path != "order.accession_number"])
def test_two_patients_under_one_accession_number_park_both(path: str) -> None:
    other = changed(PERSON, **{path.replace(".", "__"): OTHER_VALUES[path][0]})

    for one, beside in ((PERSON, other), (other, PERSON)):
        found = reconciled(one, others=[beside, one])
        assert kinds(found) == {(field(path), Kind.TWO_PATIENTS)}
        assert found.disagreements[0].sources == (HEADER, OTHER_STUDY)


def test_a_study_under_another_accession_number_is_not_of_the_others() -> None:
    other = changed(PERSON, order__accession_number="A9", patient__identifier__value="5")

    assert reconciled(PERSON, others=[other]).agrees


def test_files_that_contradict_each_other_park() -> None:
    found = reconciled(PERSON, PERSON, contradictions=("order.placer", "patient.name"))

    assert [(one.field, one.kind) for one in found.disagreements] == [
        ("patient.name", Kind.CONTRADICTS_ITSELF),
        ("order.placer", Kind.CONTRADICTS_ITSELF),
    ]


def test_a_guessed_character_set_needs_a_source_that_says_the_same_name() -> None:
    nameless = changed(PERSON, patient__name=None)

    assert reconciled(PERSON, PERSON, guessed_character_set=True).agrees
    for said in ((), (nameless,), (changed(PERSON, patient__name__given="Ю."),)):
        assert kinds(reconciled(PERSON, *said, guessed_character_set=True)) == {("patient.name", Kind.GUESSED)}


@pytest.mark.parametrize(
    "nobody",
    [
        {"family": "??????", "given": "?????"},
        {"family": "-", "given": "-"},
        {"family": "UNKNOWN", "given": "UNKNOWN"},
        {"family": "БЕЗ ИМЕНИ", "given": ""},
        {"family": "Щ?рбаков", "given": "Юрий"},
        {"family": "12345", "given": "1"},
    ],
)
def test_no_document_goes_out_under_a_name_that_names_nobody(nobody: Mapping[str, str]) -> None:
    header = changed(PERSON, patient__name=nobody)
    nameless = changed(PERSON, patient__name=None)

    for said in ((), (nameless,), (header,), (nameless, header)):
        found = reconciled(header, *said)
        assert ("patient.name", Kind.MISSING) in kinds(found)
        assert not [value for value in nobody.values() if len(value) > 1 and value in found.reason]
    assert ("patient.name", Kind.MISSING) in kinds(reconciled(nameless, header))


def test_a_name_that_names_nobody_is_unsaid_and_gives_way_to_one_that_does() -> None:
    header = changed(PERSON, patient__name={"family": "UNKNOWN", "given": "UNKNOWN"})

    found = reconciled(header, PERSON)
    assert found.agrees
    assert "patient.name" in found.unsaid
    assert settled(header, [("record", PERSON)])["patient"]["name"] == PERSON["patient"]["name"]  # type: ignore[index]
    assert reconciled(PERSON, header).agrees
    assert settled(PERSON, [("record", header)])["patient"]["name"] == PERSON["patient"]["name"]  # type: ignore[index]
    dateless = changed(header, patient__birth_date=None)
    assert kinds(reconciled(dateless, PERSON)) == {
        ("patient.name", Kind.NOT_CONFIRMED),
        ("patient.birth_date", Kind.NOT_CONFIRMED),
    }
    dashed = changed(PERSON, patient__name__patronymic="-")
    assert settled(dashed, [])["patient"]["name"]["patronymic"] == ""  # type: ignore[index]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_order_of_the_sources_changes_nothing(data: st.DataObject) -> None:
    said = [
        (f"source {at}", changed(PERSON, **{path.replace(".", "__"): OTHER_VALUES[path][0] for path in paths}))
        for at, paths in enumerate(data.draw(st.lists(st.sets(st.sampled_from(sorted(OTHER_VALUES))), max_size=4)))
    ]
    shuffled = data.draw(st.permutations(said))

    assert reconcile(PERSON, said, guessed_character_set=False) == reconcile(
        PERSON, shuffled, guessed_character_set=False
    )
    assert settled(PERSON, said) == settled(PERSON, shuffled)


@settings(max_examples=100, deadline=None)
@given(
    family=st.sampled_from(FAMILIES),
    given_name=st.sampled_from(GIVEN),
    schemes=st.tuples(st.sampled_from(sorted(SCHEMES)), st.sampled_from(sorted(SCHEMES))),
)
def test_equal_persons_agree_under_any_transliteration(family: str, given_name: str, schemes: tuple[str, str]) -> None:
    record = changed(PERSON, patient__name={"family": family, "given": given_name})
    written = [
        changed(PERSON, patient__name={"family": SCHEMES[one](family), "given": SCHEMES[one](given_name)})
        for one in schemes
    ]

    assert reconciled(written[0], record, written[1]).agrees
    assert settled(written[0], [("record", record), ("order", written[1])])["patient"]["name"] == {  # type: ignore[index]
        "family": family,
        "given": given_name,
        "patronymic": "",
    }


PLANTED = st.text(st.sampled_from("QЖ0182"), min_size=6, max_size=12)


@settings(max_examples=100, deadline=None)
@given(
    people=st.lists(
        st.fixed_dictionaries(
            {
                "family": PLANTED,
                "given": PLANTED,
                "patronymic": PLANTED,
                "snils": PLANTED,
                "identifier": PLANTED,
                "system": PLANTED,
                "accession": PLANTED,
                "birth_date": st.dates(),
            }
        ),
        min_size=1,
        max_size=4,
    )
)
def test_no_value_ever_stands_in_a_reason(people: list[dict[str, Any]]) -> None:
    trees = [
        {
            "patient": {
                "name": {part: one[part] for part in ("family", "given", "patronymic")},
                "identifier": {"value": one["identifier"], "system": one["system"]},
                "snils": one["snils"],
                "birth_date": one["birth_date"],
            },
            "order": {"accession_number": one["accession"]},
        }
        for one in people
    ]
    found = reconciled(trees[0], *trees[1:], others=trees[1:2])

    assert not found.agrees  # no planted SNILS is one
    for shown in (found.reason, repr(found)):
        assert "\n" not in shown
        for one in people:
            assert not [value for value in one.values() if str(value) in shown]


def test_settled_lets_the_record_say_how_the_name_is_written_and_keeps_the_rest() -> None:
    header = changed(PERSON, patient__name={"family": "SHCHERBAKOV", "given": "IU."}, patient__sex=Sex.OTHER)
    name = {"family": "Щербаков", "given": "Юрий", "patronymic": "Ильич"}

    for said in ([("record", PERSON)], [("record", PERSON), ("order", header)]):
        found = assemble(*(known for _, known in said), settled(header, said)).patient
        assert found.name is not None
        assert (found.name.family, found.name.given, found.name.patronymic) == tuple(name.values())
        assert found.sex is Sex.MALE
    dots = changed(PERSON, patient__name={"family": "Семёнов", "given": "Пётр"})
    plain = changed(PERSON, patient__name={"family": "Семенов", "given": "Петр"})
    for one, other in ((dots, plain), (plain, dots)):
        known = assemble(settled(one, [("record", other)])).patient.name
        assert known is not None
        assert known.family == other["patient"]["name"]["family"]
    assert settled(header, []) == changed(header, patient__name__patronymic="")
    assert settled({}, []) == {}


def test_a_table_read_by_patient_id_confirms_a_header_without_a_birth_date(tmp_path: Path) -> None:
    (tmp_path / "patients.csv").write_text(
        "patient_id,patient.name.family,patient.name.given,patient.snils\n77-1,Соловьёв,Пётр,112-233-445 95\n",
        encoding="utf-8",
    )
    table = TableSource(TableSettings(kind="csv", file=tmp_path / "patients.csv"))
    header = read_header(
        [
            write_header(
                tmp_path / "one.dcm",
                SpecificCharacterSet=b"ISO_IR 100",
                PatientName="Соловьёв^Пётр".encode("cp1251"),
                PatientBirthDate=b"",
            )
        ]
    )

    found = look_up([table, table], header.key)
    compared = reconcile(
        header.known,
        found.named_layers,
        guessed_character_set=header.guessed_character_set,
        contradictions=header.contradictions,
    )

    assert [name for name, _ in found.named_layers] == [
        "table patients.csv (lookup 1)",
        "table patients.csv (lookup 2)",
    ]
    assert header.guessed_character_set
    assert compared.agrees
    assert compared.compared == ("patient.name", "patient.snils", "patient.identifier")
    assert assemble(*found.layers, settled(header.known, found.named_layers)).patient.snils == "11223344595"


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("patient_id", {"patient": {"telephone": "1", "identifier": {"value": "17"}}}),
        ("accession_number", {"patient": {"telephone": "1"}, "order": {"accession_number": "A1"}}),
        ("study_uid", {"patient": {"telephone": "1"}}),
    ],
)
def test_a_row_says_the_number_by_which_it_was_found(tmp_path: Path, key: str, said: Known) -> None:
    asked = LookupKey(study_uid="1.2", patient_id="17", accession_number="A1")
    (tmp_path / "t.csv").write_text(f"{key},patient.telephone\n{getattr(asked, key)},1\n", encoding="utf-8")
    table = TableSource(TableSettings.model_validate({"kind": "csv", "file": tmp_path / "t.csv", "key": key}))

    assert look_up([table], asked).named_layers == (("table t.csv", said),)
