"""The watched folder: whole files are taken once, others are refused with a reason beside them, nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from dicom_node.returned.answer import Answer, Verdict
from dicom_node.returned.desk import ReturnDesk
from dicom_node.returned.folder import WatchedFolder, unframed
from dicom_node.returned.settings import ReturnedSettings
from dicom_node.states import Reading
from tests.integration.receiving_rig import eventually
from tests.returned_rig import CLEAR, ReturnedRig, diagnostic_report, oru, returned_rig


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    made = tmp_path / "inbox"
    made.mkdir()
    return made


@pytest.fixture
def rig(tmp_path: Path, inbox: Path) -> Iterator[ReturnedRig]:
    with returned_rig(tmp_path, folder=inbox, poll_s=0.05, settle_s=0.1) as made:
        yield made


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file()) if folder.exists() else []


def test_reports_states_and_tables_are_taken_by_their_endings(rig: ReturnedRig, inbox: Path) -> None:
    first, second, third = rig.film(), rig.film(), rig.film()
    (inbox / "one.HL7").write_bytes(oru(first).replace(b"\r", b"\r\n"))
    (inbox / "two.json").write_bytes(b"\xef\xbb\xbf" + diagnostic_report(second, CLEAR))
    (inbox / "three.csv").write_text(f"study_uid;label;reading\n{third};opacity;1\n")
    with rig.running():
        assert eventually(lambda: len(names(inbox / "taken")) == 3)
    assert rig.readings(first) == rig.readings(third) == {"opacity": Reading.POSITIVE}
    assert rig.readings(second) == {"opacity": Reading.NEGATIVE}
    assert (names(inbox), names(inbox / "refused")) == ([], [])


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("unknown.hl7", oru(None, accession="NOBODY"), "accession number has been received here"),
        ("cut.hl7", oru(None, accession="A1")[:90], "OBR: the message has none"),
        ("not.json", b"{", "not JSON"),
        ("deep.json", b"[" * 200_000, "not JSON"),
        ("list.json", b"[]", "not a JSON object"),
        ("other.json", b'{"resourceType": "Patient"}', "not a DiagnosticReport"),
        ("state.json", b'{"state": "registered", "number": "1"}', "document_id"),
        ("named.sig", b"x", "document_id"),
        ("table.csv", "имя;фамилия\nИван;Иванов\n".encode(), "reading"),
        ("letter.docx", b"PK", "the name ends in none of"),
        ("huge.hl7", b"MSH|^~\\&" + b"x" * (9 << 20), "larger than"),
        ("evil.json", b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>', "not JSON"),
    ],
)
def test_what_cannot_be_taken_is_refused_with_the_reason_beside_it(
    rig: ReturnedRig, inbox: Path, name: str, content: bytes, told: str
) -> None:
    (inbox / name).write_bytes(content)
    with rig.running():
        assert eventually(lambda: names(inbox / "refused") == [name, f"{name}.txt"])
    assert told in (inbox / "refused" / f"{name}.txt").read_text(encoding="utf-8")
    assert (inbox / "refused" / name).read_bytes() == content


def test_a_file_that_is_still_being_written_is_left_alone(rig: ReturnedRig, inbox: Path) -> None:
    study = rig.film()
    whole = oru(study)
    (inbox / "later.hl7.part").write_bytes(whole[:50])
    with rig.running(), (inbox / "slow.hl7").open("wb") as slow:
        for at in range(0, len(whole), 40):
            slow.write(whole[at : at + 40])
            slow.flush()
            time.sleep(0.03)
        slow.flush()
        assert eventually(lambda: names(inbox / "taken") == ["slow.hl7"])
        (inbox / "later.hl7.part").write_bytes(whole)
        (inbox / "later.hl7.part").rename(inbox / "later.hl7")
        assert eventually(lambda: names(inbox / "taken") == ["later.hl7", "slow.hl7"])
    assert len(rig.told(study)) == 1
    assert names(inbox / "refused") == []


def test_two_files_of_one_name_are_both_kept(rig: ReturnedRig, inbox: Path) -> None:
    study = rig.film()
    with rig.running():
        for number in (1, 2):
            (inbox / "report.hl7").write_bytes(oru(study))
            assert eventually(lambda wanted=number: len(names(inbox / "taken")) == wanted)  # type: ignore[misc]
    assert names(inbox / "taken") == ["report.1.hl7", "report.hl7"]
    assert len(rig.told(study)) == 1


@dataclass
class Meanwhile:
    """A desk whose sender does something while the first report is being taken."""

    desk: ReturnDesk
    do: Callable[[], object] | None
    answer: Answer | None = None

    def take_hl7(self, message: bytes) -> Answer:
        do, self.do = self.do, None
        if do is not None:
            do()
        answer, self.answer = self.answer, None
        return answer or self.desk.take_hl7(message)

    def take_json(self, body: bytes) -> Answer:
        return self.desk.take_json(body)

    def take_signature(self, document_id: str, signature: bytes) -> Answer:
        return self.desk.take_signature(document_id, signature)

    def take_table(self, path: Path) -> Answer:
        return self.desk.take_table(path)


def watched(inbox: Path, taker: Meanwhile) -> WatchedFolder:
    return WatchedFolder(ReturnedSettings(folder=inbox, settle_s=0), taker)


def test_a_report_that_replaces_another_while_that_is_taken_is_taken_too(rig: ReturnedRig, inbox: Path) -> None:
    first, second = rig.film(), rig.film()
    (inbox / "report.hl7").write_bytes(oru(first))
    (inbox / "new.part").write_bytes(oru(second))
    folder = watched(inbox, Meanwhile(rig.desk, lambda: (inbox / "new.part").replace(inbox / "report.hl7")))
    assert [folder.look() for _ in range(2)] == ["", ""]
    assert rig.readings(first) == rig.readings(second) == {"opacity": Reading.POSITIVE}
    assert (inbox / "taken" / "report.hl7").read_bytes() == oru(first)
    assert (inbox / "taken" / "report.1.hl7").read_bytes() == oru(second)
    assert names(inbox) == names(inbox / ".taking") == names(inbox / "refused") == []


def test_a_report_that_replaces_one_that_has_to_wait_is_kept_beside_it(rig: ReturnedRig, inbox: Path) -> None:
    first, second = rig.film(), rig.film()
    (inbox / "report.hl7").write_bytes(oru(first))
    folder = watched(inbox, Meanwhile(rig.desk, None, Answer(verdict=Verdict.LATER, why="")))
    folder.look()
    (inbox / "report.hl7").write_bytes(oru(second))
    folder.look()
    watched(inbox, Meanwhile(rig.desk, None)).look()  # the node is started anew
    assert (inbox / "taken" / "report.hl7").read_bytes() == oru(first)
    assert (inbox / "taken" / "report.1.hl7").read_bytes() == oru(second)
    assert rig.readings(first) == rig.readings(second) == {"opacity": Reading.POSITIVE}


def test_a_report_that_is_written_on_while_it_is_taken_is_read_again(rig: ReturnedRig, inbox: Path) -> None:
    study = rig.film()
    whole = oru(study)
    with (inbox / "slow.hl7").open("wb", buffering=0) as slow:
        slow.write(whole[:90])
        folder = watched(inbox, Meanwhile(rig.desk, lambda: slow.write(whole[90:])))
        assert [folder.look() for _ in range(2)] == ["", ""]
    assert (inbox / "taken" / "slow.hl7").read_bytes() == whole
    assert rig.readings(study) == {"opacity": Reading.POSITIVE}
    assert names(inbox / "refused") == []


def test_a_name_as_long_as_names_may_be_is_taken(rig: ReturnedRig, inbox: Path) -> None:
    study = rig.film()
    (inbox / f"{'n' * 251}.hl7").write_bytes(oru(study))
    with rig.running():
        assert eventually(lambda: len(names(inbox / "taken")) == 1)
    assert rig.readings(study) == {"opacity": Reading.POSITIVE}


def test_neither_links_nor_folders_nor_pipes_are_followed(rig: ReturnedRig, inbox: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}")
    (inbox / "link.json").symlink_to(tmp_path / "secret.json")
    (inbox / "sub.json").mkdir()
    os.mkfifo(inbox / "pipe.hl7")
    study = rig.film()
    (inbox / "plain.hl7").write_bytes(oru(study))
    with rig.running():
        assert eventually(lambda: names(inbox / "taken") == ["plain.hl7"])
    assert (inbox / "link.json").is_symlink()
    assert names(inbox / "refused") == []


def test_rows_that_cannot_be_entered_are_named_and_the_others_stand(rig: ReturnedRig, inbox: Path) -> None:
    study = rig.film()
    (inbox / "t.csv").write_text(f"study_uid,reading\n{study},1\n1.2.3,0\n")
    with rig.running():
        assert eventually(lambda: names(inbox / "refused") == ["t.csv", "t.csv.txt"])
    assert "line 3: the ledger has no study" in (inbox / "refused" / "t.csv.txt").read_text()
    assert rig.readings(study) == {"": Reading.POSITIVE}


def test_names_of_files_and_patients_reach_no_log(
    rig: ReturnedRig, inbox: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (inbox / "Иванова Анна.hl7").write_bytes(oru(rig.film()))
    (inbox / "Петров.csv").write_text("Петров;Пётр\n1;2\n")
    (inbox / "Сидоров.json").write_bytes(b'{"state": "refused", "Sidorov": 1}')
    with rig.running():
        assert eventually(lambda: len(names(inbox / "refused")) == 4 and names(inbox / "taken"))
    said = capfd.readouterr()
    assert not any(name in said.out + said.err for name in ("Иванов", "Петров", "Сидоров", "Sidorov", "77-1"))


def test_a_folder_that_cannot_be_used_is_told_and_does_not_end_the_loop(tmp_path: Path) -> None:
    (tmp_path / "inbox").write_text("a file")
    with returned_rig(tmp_path, folder=tmp_path / "inbox", poll_s=0.05) as rig, rig.running():
        assert eventually(lambda: "returned.folder" in rig.desk.fault)


def test_a_message_of_a_file_has_no_frame_and_the_line_ends_of_hl7() -> None:
    assert unframed(b"\x0bMSH|\nPID|\r\n\x1c\r") == b"MSH|\rPID|"


DESK = """
import sys, threading
from tests.returned_rig import returned_rig
from pathlib import Path
with returned_rig(Path(sys.argv[1]), folder=Path(sys.argv[1]) / "inbox", poll_s=0.01, settle_s=0) as rig:
    print("ready", flush=True)
    rig.desk.run(threading.Event())
"""


def test_kills_in_the_middle_lose_no_report_and_take_none_twice(tmp_path: Path, inbox: Path) -> None:
    with returned_rig(tmp_path) as rig:
        studies = [rig.film() for _ in range(40)]
    for number, study in enumerate(studies):
        (inbox / f"{number}.hl7").write_bytes(oru(study))
    for pause_s in (0.0, 0.03, 0.08):
        with subprocess.Popen([sys.executable, "-c", DESK, str(tmp_path)], stdout=subprocess.PIPE) as node:
            assert node.stdout is not None
            assert node.stdout.readline() == b"ready\n"
            time.sleep(pause_s)
            node.send_signal(signal.SIGKILL)
    # what kills between moving and entering, and between entering and putting away, leave behind
    (inbox / ".taking").mkdir(exist_ok=True)
    (inbox / ".taking" / "0.hl7").write_bytes(oru(studies[0]))
    (inbox / "0.hl7").write_bytes(oru(studies[0]))
    with returned_rig(tmp_path, folder=inbox, poll_s=0.05, settle_s=0) as rig:
        with rig.running():
            assert eventually(lambda: not names(inbox) and not names(inbox / ".taking"))
        assert all(rig.readings(study) == {"opacity": Reading.POSITIVE} for study in studies)
        assert all(len(rig.told(study)) == 1 for study in studies)
        with rig.ledger.read() as tx:
            assert tx.execute(sa.text("SELECT count(*) FROM truth")).scalar_one() == len(studies)
    assert {f"{number}.hl7" for number in range(40)} <= set(names(inbox / "taken"))
    assert names(inbox / "refused") == []
    assert json.dumps(names(inbox)) == "[]"
