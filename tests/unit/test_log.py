"""No patient data in logs: whatever an error, a warning or a library says, only kinds and places are written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PLANTED = (
    "Иванов^Иван^Иванович", "Петрова Анна Сергеевна", "Ahmadov^Rashid", "СИДОРОВ", "Müller^Jürgen",
    "112-233-445 95", "11223344595", "4509 123456", "7712345678901234", "PID-0042", "MRN 99-17-3", "A26030201",
    "1961-04-12", "19610412", "+7 916 123-45-67", "Москва, ул. Ленина, д. 1", "ivanov@example.org",
    "C:\\exports\\ivanov.dcm", "Пациент Ф. И. О.", "Smith^John^^Dr",
)  # fmt: skip

SCRIPT = """
import json, logging, sys, threading, warnings
import structlog
from dicom_node.log import set_up_logging

planted = json.loads(sys.argv[1])
set_up_logging(sys.argv[3], sys.argv[2])
log = structlog.get_logger("node")

class Odd(Exception):
    pass

def fail(text):
    raise Odd(text) from ValueError(text)

for text in planted:
    try:
        fail(text)
    except Odd as error:
        log.exception("step failed", stage="index")
        log.error("with an error given", exc_info=error)
        log.error("with a tuple given", exc_info=sys.exc_info())
        log.error("with an error as a value", reason=error)
        logging.getLogger("pydicom").error("value %s", text)
        logging.getLogger("pynetdicom.acse").warning(text)
        logging.getLogger("uvicorn.error").error("boom", exc_info=error)
        logging.getLogger("unheard.of").error(text)
    warnings.warn(text)
    thread = threading.Thread(target=fail, args=(text,))
    thread.start()
    thread.join()
log.debug("fine")
log.info("ready", port=104, slovo="слово")
fail(planted[0])
"""


def written(form: str, level: str = "debug") -> list[str]:
    command = [sys.executable, "-W", "always", "-c", SCRIPT, json.dumps(PLANTED), form, level]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2], check=False
    )
    assert done.returncode == 1 and done.stdout == ""
    return done.stderr.splitlines()


@pytest.mark.parametrize("form", ["json", "text"])
def test_planted_personal_words_never_appear(form: str) -> None:
    lines = written(form)
    assert len(lines) >= 5 * len(PLANTED)
    everything = "\n".join(lines)
    for text in PLANTED:
        assert text not in everything
        assert json.dumps(text).strip('"') not in everything


def test_an_error_is_told_by_its_kind_and_place() -> None:
    events = [json.loads(line) for line in written("json")]
    first = events[0]
    assert (first["event"], first["level"], first["error"], first["stage"]) == ("step failed", "error", "Odd", "index")
    assert first["where"].endswith("fail")
    assert events[3]["reason"] == "Odd"
    assert {event["event"] for event in events} >= {"uncaught error", "fine", "ready"}
    assert events[-1]["event"] == "uncaught error" and events[-1]["error"] == "Odd"
    (ready,) = [event for event in events if event["event"] == "ready"]
    assert ready["port"] == 104 and ready["slovo"] == "слово"


def test_what_is_below_the_level_is_not_written() -> None:
    levels = {json.loads(line)["level"] for line in written("json", "error")}
    assert levels == {"error", "critical"}
