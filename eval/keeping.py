"""What is done of a run that is under way: one line for each case, kept when the process is killed.

Called by `eval.running`. A line is written and forced to the disk when its case is done. What was cut off in the middle
of a line, or is not what its digest says, is dropped and done again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from eval.runs import CaseRecord, digest
from inference.findings import Findings

PARTIAL_FILE = "partial.jsonl"


class Kept:
    """The cases that are done, in the order in which they were; to be used as a context.

    Parameters
    ----------
    file : Path
        Made if it is not there. Lines that cannot be trusted are removed from it.

    Attributes
    ----------
    cases : dict
        Records of the cases that are done, by name.
    findings : dict
        Canonical JSON of their findings, of those that have any.
    dropped : int
        Lines that were cut off or altered: their cases are to be done again.
    """

    def __init__(self, file: Path) -> None:
        self.cases: dict[str, CaseRecord] = {}
        self.findings: dict[str, str] = {}
        self.dropped = 0
        lines = file.read_bytes().split(b"\n") if file.exists() else [b""]
        self.dropped += bool(lines[-1])  # without its end: the process was killed while it wrote
        whole = [line for line in lines[:-1] if self._take(line)]
        self.dropped += len(lines) - 1 - len(whole)
        if self.dropped:
            partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
            partial.write_bytes(b"".join(line + b"\n" for line in whole))
            os.replace(partial, file)  # noqa: PTH105 - atomic
        self._file = file.open("ab")

    def _take(self, line: bytes) -> bool:
        try:
            content = json.loads(line)
            case = CaseRecord.model_validate(content["case"])
            findings = content["findings"]
        except (ValueError, KeyError, TypeError, ValidationError):
            return False
        if case.findings_sha256 != (None if findings is None else digest(findings)) or case.case in self.cases:
            return False
        self.cases[case.case] = case
        if findings is not None:
            self.findings[case.case] = findings
        return True

    def add(self, case: CaseRecord, findings: Findings | None) -> None:
        """Keep a case that is done; on the disk when this returns.

        Raises
        ------
        OSError
            If the disk is full.
        """
        text = None if findings is None else findings.to_json()
        said: Mapping[str, object] = {"case": case.model_dump(mode="json", exclude_defaults=True), "findings": text}
        self._file.write(json.dumps(said, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.cases[case.case] = case
        if text is not None:
            self.findings[case.case] = text

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
