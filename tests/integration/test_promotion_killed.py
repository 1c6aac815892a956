"""A promotion and a roll-back, killed before every statement and the commit: one champion, the old or the new."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import sqlalchemy as sa

from dicom_node import promotion
from dicom_node.ledger import Ledger, standings
from tests.conftest import PROJECT
from tests.ledgers import TestClock, open_ledger
from tests.promotions import ALL_VERSIONS, act, champions, write_report


def attempt(url: str, what: str, report: Path, kill_at: int) -> None:
    """In a child: change the champion, and die without a word before statement `kill_at`."""
    ledger = Ledger(url, clock=TestClock())
    seen = 0

    def count(*_arguments: object) -> None:
        nonlocal seen
        seen += 1
        if seen == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    with ledger.begin() as tx:
        sa.event.listen(ledger.engine, "before_cursor_execute", count)
        sa.event.listen(ledger.engine, "commit", count)
        if what == "promote":
            found = write_report(report, ALL_VERSIONS["chest@2.0.0"])
            promotion.promote(tx, ALL_VERSIONS["chest@2.0.0"], found, act(ledger))
        else:
            promotion.rollback(tx, "chest", ALL_VERSIONS, act(ledger))
    ledger.close()


def killed_everywhere(url: str, what: str, folder: Path) -> int:
    """Kill one attempt after the other, each a statement later, until one gets through; how many were killed."""
    drill = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from tests.integration.test_promotion_killed import attempt\n"
        "url, what, report = sys.argv[1], sys.argv[2], Path(sys.argv[3])\n"
        "kill_at, status = 0, 1\n"
        "while status:\n"
        "    kill_at += 1\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        attempt(url, what, report, kill_at)\n"
        "        os._exit(0)\n"
        "    status = os.waitpid(child, 0)[1]\n"
        "    print(kill_at, os.WTERMSIG(status) if os.WIFSIGNALED(status) else status, flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", drill, url, what, str(folder / "report.json")],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin and process.stdout
        with open_ledger(url, TestClock()) as ledger:
            before, killed = champions(ledger), 0
            for line in process.stdout:
                _, ended = line.split()
                assert ended in ("0", str(int(signal.SIGKILL))), "the attempt itself must not fail"
                if ended != "0":
                    killed += 1
                    assert champions(ledger) == before, f"killed at statement {killed}"
                process.stdin.write("go on\n")
                process.stdin.flush()
    assert process.returncode == 0
    return killed


def test_killed_at_any_moment_a_change_leaves_the_old_champion_or_the_new(ledger_url: str, tmp_path: Path) -> None:
    one = ALL_VERSIONS["chest@1.0.0"]
    with open_ledger(ledger_url, TestClock()) as ledger, ledger.begin() as tx:
        promotion.enter_first(tx, promotion.as_version(one), ledger.clock())
    assert killed_everywhere(ledger_url, "promote", tmp_path) >= 8
    with open_ledger(ledger_url, TestClock()) as ledger:
        assert champions(ledger) == ["2.0.0"]
        with ledger.read() as tx:
            assert len(standings.history(tx, "chest")) == 3, "what was killed left nothing"
    assert killed_everywhere(ledger_url, "rollback", tmp_path) >= 6
    with open_ledger(ledger_url, TestClock()) as ledger:
        assert champions(ledger) == ["1.0.0"]
