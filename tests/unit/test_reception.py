"""The board of reception, and who may open an association."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.dimse.admission import Admission, Load
from dicom_node.dimse.incoming import Sender
from dicom_node.receiver import Peer, ReceiverSettings
from dicom_node.reception import Happened, ReceptionBoard, Report
from dicom_node.store import Store, StoreLimits
from inference.findings import StudyUid

STUDY, OTHER = StudyUid("1.2.3"), StudyUid("1.2.4")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def board(clock: Clock) -> ReceptionBoard:
    board = ReceptionBoard(clock)
    tell(board, Happened.OPENED)
    return board


def tell(
    board: ReceptionBoard,
    happened: Happened,
    study: str = "",
    association: int = 1,
    acceptor: str = "a",
    ae: str = "CT",
) -> None:
    board.apply(
        acceptor,
        Report(happened=happened, association=association, study_uid=study, calling_ae=ae, peer_address="192.0.2.7"),
    )


def test_an_open_association_holds_only_studies_it_brought(board: ReceptionBoard) -> None:
    assert board.holders(STUDY, "CT", 60) == ()
    tell(board, Happened.STORED, STUDY)
    (reason,) = board.holders(STUDY, "CT", 60)
    assert "CT" in reason and "still open" in reason
    assert board.holders(OTHER, "CT", 60) == ()


def test_an_association_that_ended_holds_nothing(board: ReceptionBoard) -> None:
    tell(board, Happened.STORED, STUDY)
    tell(board, Happened.CLOSED)
    assert board.holders(STUDY, "CT", 60) == ()
    assert board.snapshot() == ()


def test_an_idle_association_holds_nothing_until_something_comes(board: ReceptionBoard, clock: Clock) -> None:
    tell(board, Happened.STORED, STUDY)
    clock.now += 61
    assert board.holders(STUDY, "CT", 60) == ()
    tell(board, Happened.ACTIVE)
    assert len(board.holders(STUDY, "CT", 60)) == 1


def test_a_half_received_object_holds_its_study_however_long_it_takes(board: ReceptionBoard, clock: Clock) -> None:
    tell(board, Happened.OBJECT_STARTED)
    tell(board, Happened.OBJECT_KNOWN, STUDY)
    clock.now += 3600
    (reason,) = board.holders(STUDY, "ANOTHER", 60)
    assert "in the middle of an object of this study" in reason
    assert board.holders(OTHER, "CT", 60) == ()


def test_an_object_of_an_unknown_study_holds_what_the_same_sender_sends(board: ReceptionBoard) -> None:
    tell(board, Happened.OBJECT_STARTED)
    assert len(board.holders(OTHER, "CT", 60)) == 1
    assert board.holders(OTHER, "MR", 60) == ()


@pytest.mark.parametrize("end", [Happened.STORED, Happened.REFUSED, Happened.CLOSED])
def test_the_end_of_an_object_lets_other_studies_go(board: ReceptionBoard, end: Happened) -> None:
    tell(board, Happened.OBJECT_STARTED)
    tell(board, Happened.OBJECT_KNOWN, OTHER)
    tell(board, end, STUDY if end is Happened.STORED else "")
    assert board.holders(OTHER, "CT", 60) == ()


def test_a_dead_acceptor_takes_only_its_own_associations_along(board: ReceptionBoard) -> None:
    tell(board, Happened.OPENED, acceptor="b")
    for acceptor in ("a", "b"):
        tell(board, Happened.STORED, STUDY, acceptor=acceptor)
    assert len(board.holders(STUDY, "CT", 60)) == 2
    board.drop_acceptor("a")
    assert len(board.holders(STUDY, "CT", 60)) == 1
    tell(board, Happened.STORED, STUDY, acceptor="a")
    assert len(board.snapshot()) == 1, "a late report of a dead process opens nothing"


def test_subscribers_are_told_of_each_instance_and_of_the_end(board: ReceptionBoard) -> None:
    told: list[str] = []
    board.subscribe(told.append)
    tell(board, Happened.STORED, STUDY)
    tell(board, Happened.STORED, OTHER)
    tell(board, Happened.CLOSED)
    assert told == [STUDY, OTHER, STUDY, OTHER]
    tell(board, Happened.OPENED, acceptor="b")
    tell(board, Happened.STORED, STUDY, acceptor="b")
    board.drop_acceptor("b")
    assert told[4:] == [STUDY, STUDY]


def test_the_snapshot_and_the_totals_are_for_people(board: ReceptionBoard, clock: Clock) -> None:
    clock.now += 5
    tell(board, Happened.STORED, STUDY)
    tell(board, Happened.DUPLICATE, STUDY)
    tell(board, Happened.REFUSED)
    tell(board, Happened.REJECTED, association=2)
    tell(board, Happened.OBJECT_STARTED)
    clock.now += 2
    (open_,) = board.snapshot()
    assert (open_.calling_ae, open_.peer_address) == ("CT", "192.0.2.7")
    assert (open_.open_s, open_.idle_s, open_.receiving, open_.studies, open_.stored) == (7, 2, True, 1, 2)
    counts = board.counts()
    assert (counts.associations, counts.rejected, counts.stored, counts.duplicates) == (1, 1, 1, 1)
    assert counts.refused == 1


def test_an_association_that_brings_studies_for_ever_does_not_fill_the_memory(board: ReceptionBoard) -> None:
    for number in range(10_050):
        tell(board, Happened.STORED, f"1.{number}")
    (open_,) = board.snapshot()
    assert open_.studies == 10_000
    assert board.holders(StudyUid("1.10049"), "CT", 60)


@given(
    happened=st.sampled_from(Happened),
    association=st.integers(0, 2**31),
    texts=st.tuples(*[st.text(max_size=70)] * 4),
)
def test_a_report_comes_back_from_the_pipe_as_it_went_in(
    happened: Happened, association: int, texts: tuple[str, str, str, str]
) -> None:
    study, ae, address, reason = texts
    report = Report(
        happened=happened, association=association, study_uid=study, calling_ae=ae, peer_address=address, reason=reason
    )
    assert Report.from_bytes(report.to_bytes()) == report


@given(data=st.binary(max_size=60))
def test_a_report_that_cannot_be_read_is_a_value_error(data: bytes) -> None:
    with pytest.raises((ValueError, TypeError)):
        Report.from_bytes(data)


def admission(tmp_path: Path, counts: list[int] | None = None, **settings: object) -> Admission:
    no_limits = StoreLimits(soft_free_bytes=0, hard_free_bytes=0, reserve_bytes=0)
    values = {"ae_titles": ("NODE",)} | settings
    return Admission(ReceiverSettings(**values), Store(tmp_path, no_limits), Load(counts or [0, 0], 0))  # type: ignore[arg-type]


def sender(calling: str = "CT", called: str = "NODE", address: str = "192.0.2.7") -> Sender:
    return Sender(calling_ae=calling, called_ae=called, peer_address=address)


def test_the_limit_counts_all_processes(tmp_path: Path) -> None:
    counts = [1, 2]
    gate = admission(tmp_path, counts, max_associations=4)
    assert gate.admit(sender()) is None
    assert counts == [2, 2]
    rejection = gate.admit(sender())
    assert rejection is not None and (rejection.result, rejection.source, rejection.diagnostic) == (2, 3, 2)
    gate.leave()
    assert counts == [1, 2]
    assert gate.admit(sender()) is None


def test_an_empty_list_of_titles_or_peers_accepts_any(tmp_path: Path) -> None:
    gate = admission(tmp_path, ae_titles=())
    assert gate.admit(sender(called="ANYTHING", calling="ANYONE")) is None


def test_a_rejected_sender_takes_no_place(tmp_path: Path) -> None:
    counts = [0, 0]
    gate = admission(tmp_path, counts, peers=(Peer(ae_title="PACS"),))
    assert gate.admit(sender()) is not None
    assert counts == [0, 0]


@pytest.mark.parametrize("title", ["", "   ", "A" * 17])
def test_a_title_that_cannot_be_one_is_refused_in_the_settings(title: str) -> None:
    with pytest.raises(ValueError, match="1 to 16 characters"):
        Peer(ae_title=title)


def test_the_busier_process_lets_the_other_take_a_connection() -> None:
    assert Load([3, 1], 0).is_busier_than_another()
    assert not Load([3, 1], 1).is_busier_than_another()
    assert not Load([1, 1], 0).is_busier_than_another()
