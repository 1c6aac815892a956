"""A day with a receiver that is down for hours, breaks, hangs, cuts and forgets: every document once, in order.

The ledger's clock goes through the day in steps while studies come, are corrected and withdrawn; sockets and receivers
are real. Physicians' systems take SEMD drafts, FHIR servers transactions, HL7 v2 receivers messages over MLLP.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from dicom_node.ehr.hl7v2.oru import control_id
from dicom_node.outbox.courier import Courier
from inference.findings import StudyUid
from tests.archives import free_port
from tests.mllp import MllpServer
from tests.outbox_rig import Mood, MoodyService, OutboxRig, moody_service
from tests.outbox_story import (
    assert_drafts_say_their_versions,
    assert_each_arrived_once_and_in_order,
    report,
    study_of,
    take_back,
)

STUDIES = 12
STEP_S = 900.0
HOURS = 24
SEED = 20261123
ANY = (Mood.HONEST, Mood.HONEST, Mood.BROKEN, Mood.SLOW, Mood.CUTS, Mood.CUTS_EARLY, Mood.FORGETS, Mood.BUSY)


@dataclass
class Weather:
    """What a receiver is like at each hour; None: nobody listens at its port."""

    draw: random.Random
    moods: tuple[Mood, ...] | None = (Mood.HONEST,)

    def at(self, hour: int) -> tuple[Mood, ...] | None:
        """Down from the third hour to the ninth; then every fault for a while; honest in the evening."""
        by_hour: dict[int, tuple[Mood, ...] | None] = {
            **dict.fromkeys(range(3, 9), None),
            9: (Mood.BROKEN,),
            10: ANY,
            11: (Mood.SLOW,),
            12: (Mood.CUTS,),
            13: (Mood.CUTS_EARLY,),
            14: (Mood.FORGETS,),
            15: (Mood.FORGETS, Mood.HONEST),
            16: (Mood.BUSY,),
            **dict.fromkeys(range(17, 20), ANY),
            20: None,
        }
        return by_hour.get(hour, (Mood.HONEST,))

    def mood(self) -> Mood:
        """How the next request is met."""
        assert self.moods is not None, "nobody listens"
        return self.draw.choice(self.moods)


def words_of_the_hour(rig: OutboxRig, hour: int, step: int, *, studies: int) -> None:
    """Reports until noon, a correction eight hours after each, the withdrawal of every other study five hours later."""
    if step:
        return
    share = studies // 6
    if hour in range(0, 12, 2):
        report(rig, range(hour // 2 * share, (hour // 2 + 1) * share), lesions=1)
    if hour in range(8, 20, 2):
        report(rig, range((hour - 8) // 2 * share, (hour - 6) // 2 * share), lesions=2)
    if hour in range(9, 21, 2):
        take_back(rig, range((hour - 9) // 2 * share, (hour - 7) // 2 * share, 2))


def named(studies: int) -> list[StudyUid]:
    return [study_of(number) for number in range(studies)]


@contextmanager
def brought_by(folder: Path, record: dict[str, Any], *, studies: int) -> Iterator[tuple[OutboxRig, Courier]]:
    """A rig with one receiver, and its courier."""
    rig = OutboxRig(folder, [record], patients=studies)
    courier = rig.courier(record["name"])
    try:
        yield rig, courier
    finally:
        courier.close()
        rig.close()


def drain(rig: OutboxRig, courier: Courier) -> None:
    """Go on with the clock until nothing is on its way any more."""
    for _quarter in range(300):
        rig.bring(courier)
        if not any(row.is_open for row in rig.every_row()):
            return
        rig.clock.move(900.0)
    raise AssertionError([(row.state, row.reason, row.next_attempt_at) for row in rig.every_row() if row.is_open])


Listen = Callable[[], AbstractContextManager[object]]


def live_through(rig: OutboxRig, courier: Courier, weather: Weather, listen: Listen, *, studies: int) -> None:
    """The day, and as much of the next as it takes until nothing is on its way any more."""
    begun = rig.clock()
    with ExitStack() as listening:
        listening.enter_context(listen())
        for hour in range(HOURS):
            moods = weather.at(hour)
            if moods is None:
                listening.close()
            elif weather.moods is None:
                listening.enter_context(listen())
            weather.moods = moods
            for step in range(int(3600 // STEP_S)):
                rig.clock.now = max(rig.clock.now, begun + timedelta(hours=hour, seconds=step * STEP_S))
                words_of_the_hour(rig, hour, step, studies=studies)
                rig.bring(courier)
        drain(rig, courier)


def test_a_service_with_a_bad_day_holds_every_draft_once_and_in_order(tmp_path: Path) -> None:
    weather = Weather(draw=random.Random(SEED))
    service = MoodyService(mood=weather.mood, slow_s=0.25, port=free_port())
    record = {"name": "emr", "kind": "semd", "url": service.url, "accept_research": True, "response_timeout_s": 0.1}
    with brought_by(tmp_path, record, studies=STUDIES) as (rig, courier):
        live_through(rig, courier, weather, lambda: moody_service(service, port=service.port), studies=STUDIES)
        rows = rig.every_row()
    assert_each_arrived_once_and_in_order(rows, service.order, studies=named(STUDIES), versions=3)
    assert_drafts_say_their_versions(rows, service)
    assert max(row.attempts for row in rows) > 3, "the day was too fair to show anything"
    assert sum(service.sendings.values()) > len(service.held), "nothing came twice: the day was too fair"


class Ris:
    """A receiver of HL7 v2 as many are: what has the control id of a message that it took is acknowledged and dropped.

    Silence after it took a message, or before; an internal error (207) or a locked record (206); a rejection for now
    (AR); the end of the connection.
    """

    def __init__(self, weather: Weather) -> None:
        self.weather = weather
        self.taken: dict[str, str] = {}
        self.came = 0

    def acknowledge(self, message: Any) -> Any:
        self.came += 1
        mood = self.weather.mood()
        if mood is Mood.CUTS_EARLY:
            raise ConnectionResetError
        if mood in {Mood.BROKEN, Mood.BUSY}:
            return self._error(message, "AE", "207" if mood is Mood.BROKEN else "206")
        if mood is Mood.FORGETS:  # what acknowledges here has taken it: HL7 v2 cannot be asked again
            return self._error(message, "AR", "")
        known = str(message.segment("MSH")[10])
        assert self.taken.setdefault(known, str(message)) == str(message), "another message under a known control id"
        if mood is Mood.CUTS:
            raise ConnectionResetError
        return None if mood is Mood.SLOW else message.create_ack("AA")

    @staticmethod
    def _error(message: Any, code: str, number: str) -> str:
        error = f"ERR|||{number}^told^HL70357|E\r" if number else ""
        return f"{message.create_ack(code)}".rstrip("\r") + "\r" + error


def test_a_receiver_of_hl7_with_a_bad_day_takes_every_message_once_and_in_order(tmp_path: Path) -> None:
    weather = Weather(draw=random.Random(SEED))
    ris, port = Ris(weather), free_port()
    record = {"name": "ris", "kind": "mllp", "host": "127.0.0.1", "port": port, "accept_research": True}
    with brought_by(tmp_path, record | {"response_timeout_s": 0.1}, studies=STUDIES) as (rig, courier):
        live_through(rig, courier, weather, lambda: MllpServer(ris.acknowledge, port=port), studies=STUDIES)
        rows = rig.every_row()
    by_control_id = {control_id(row.document_id): row.document_id for row in rows}
    kept = [by_control_id[known] for known in ris.taken]
    assert_each_arrived_once_and_in_order(rows, kept, studies=named(STUDIES), versions=3)
    assert max(row.attempts for row in rows) > 3
    assert ris.came > len(ris.taken), "nothing came twice: the day was too fair"
