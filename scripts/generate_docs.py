"""Writes the pages and schemas that are made from the code: settings, states, conformance statement, JSON Schemas.

`make docs` runs it; `tests/unit/test_docs_generated.py` fails when what is committed is not what it would write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from enum import EnumMeta
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel
from pydicom.uid import UID

from dicom_node import implementation, states
from dicom_node.commands.schema import written_files
from dicom_node.delivery import statuses
from dicom_node.dimse import admission, command, contexts, scu
from dicom_node.monitoring.document import MonitoringReport
from dicom_node.receiver import ReceiverSettings
from dicom_node.results.request import Role
from dicom_node.routing import Routes
from dicom_node.settings import Settings
from eval.case_document import ProportionsDocument, RocDocument
from eval.commands.boxes import BoxesDocument
from eval.commands.compare import CompareDocument
from eval.commands.drift import DriftDocument
from eval.commands.froc import FrocDocument
from eval.commands.jafroc import JafrocDocument
from eval.commands.mrmc import MrmcDocument
from eval.commands.paired import PairedDocument
from eval.commands.run import RunDocument
from eval.commands.sample_size import SampleSizeDocument
from eval.report.twin import Twin
from eval.runs import CaseRecord, RunRecord
from inference import refusals

PROJECT: Final = Path(__file__).resolve().parents[1]
DOCS: Final = PROJECT / "docs"
STATES_MARK: Final = "<!-- made by `make docs` from here -->"
_ATTRIBUTES: Final = "\n\nAttributes\n----------\n"
_SCHEMAS: Final[Mapping[str, type[BaseModel]]] = {
    **written_files(),
    # what `radnode eval` prints with --json
    "eval-roc": RocDocument,
    "eval-froc": FrocDocument,
    "eval-boxes": BoxesDocument,
    "eval-proportions": ProportionsDocument,
    "eval-paired": PairedDocument,
    "eval-mrmc": MrmcDocument,
    "eval-jafroc": JafrocDocument,
    "eval-sample-size": SampleSizeDocument,
    "eval-drift": DriftDocument,
    "eval-run": RunDocument,
    "eval-compare": CompareDocument,
    # what a run and its report consist of
    "run": RunRecord,
    "run-case": CaseRecord,
    "evaluation": Twin,
    "monitoring": MonitoringReport,
}
_RESULT_CLASSES: Final = {
    Role.SR: (
        "1.2.840.10008.5.1.4.1.1.88.34",
        "1.2.840.10008.5.1.4.1.1.88.33",
        "1.2.840.10008.5.1.4.1.1.88.11",
        "1.2.840.10008.5.1.4.1.1.88.22",
    ),
    Role.NEGATIVE_SR: ("1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.88.33"),
    Role.OVERLAY: ("1.2.840.10008.5.1.4.1.1.7",),
    Role.STATUS_PAGE: ("1.2.840.10008.5.1.4.1.1.7",),
    Role.SEGMENTATION: ("1.2.840.10008.5.1.4.1.1.66.4",),
    Role.PRESENTATION_STATE: ("1.2.840.10008.5.1.4.1.1.11.1",),
    Role.MAMMOGRAPHY_CAD_SR: ("1.2.840.10008.5.1.4.1.1.88.50",),
    Role.RETRACTION: ("1.2.840.10008.5.1.4.1.1.88.59",),
}


def generate() -> dict[Path, str]:
    """Every made file and its text."""
    made = {
        DOCS / "settings.md": settings_page(),
        DOCS / "conformance.md": conformance_page(),
        DOCS / "glossary.md": (DOCS / "glossary.md").read_text(encoding="utf-8").partition(STATES_MARK)[0]
        + states_section(),
    }
    for name, model in _SCHEMAS.items():
        schema = json.dumps(model.model_json_schema(), ensure_ascii=False, indent=2)
        made[DOCS / "schemas" / f"{name}.schema.json"] = schema + "\n"
    return made


# settings ------------------------------------------------------------------------------------------------------------


def settings_page() -> str:
    """Every key of the settings file and the routes file."""
    lines = [
        "# Settings",
        "",
        "Made from the code by `make docs`. The settings file is TOML; `radnode --settings FILE check` reports every",
        "fault of it at once, and a misspelt key is a fault. A commented example is `examples/radnode.toml`. Relative",
        "paths are meant from the file's own folder. Secrets are never written into it: settings name a variable or a",
        "file. JSON Schemas for editors are in `docs/schemas/`. Units are part of the names: `_s` seconds, `_bytes`,",
        "`_mib`, `_days`.",
        "",
    ]
    for file, model in (("The settings file", Settings), ("The routes file", Routes)):
        schema = model.model_json_schema()
        lines += [f"## {file}", "", *_table(schema, schema)]
        for heading, part in _sections(schema, schema, ""):
            lines += [f"### {heading}", ""]
            if part.get("description"):
                lines += [_one_line(part["description"].partition(_ATTRIBUTES)[0]), ""]
            lines += _table(part, schema)
    return "\n".join(lines).rstrip() + "\n"


def _sections(
    part: Mapping[str, Any], schema: Mapping[str, Any], prefix: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, value in part.get("properties", {}).items():
        for inner, many in _parts_of(value, schema):
            title = f"{prefix}{name}"
            kind = inner.get("properties", {}).get("kind", {}).get("const") if many else None
            heading = f"`[[{title}]]`" if many else f"`[{title}]`"
            yield heading + (f", kind `{kind}`" if kind else ""), inner
            yield from _sections(inner, schema, f"{title}.")


def _parts_of(value: Mapping[str, Any], schema: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], bool]]:
    many = value.get("type") == "array"
    inner = value.get("items", {}) if many else value
    options = inner.get("anyOf") or inner.get("oneOf") or [inner]
    found = [_resolved(option, schema) for option in options if "$ref" in option]
    return [(part, many) for part in found if "properties" in part]


def _resolved(value: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    resolved: Mapping[str, Any] = schema["$defs"][value["$ref"].rpartition("/")[2]] if "$ref" in value else value
    return resolved


def _table(part: Mapping[str, Any], schema: Mapping[str, Any]) -> list[str]:
    described = _attributes(part.get("description", ""))
    rows = []
    for name, value in part.get("properties", {}).items():
        if _parts_of(value, schema):
            continue
        required = name in part.get("required", ())
        default = "required" if required else _default(value)
        meaning = _one_line(value.get("description") or described.get(name, ""))
        rows.append(f"| `{name}` | {_kind(value, schema)} | {default} | {meaning} |")
    return ["| key | value | default | meaning |", "|---|---|---|---|", *rows, ""] if rows else []


def _attributes(docstring: str) -> dict[str, str]:
    """What a numpydoc docstring says of each attribute; settings that are dataclasses describe them there."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in docstring.partition(_ATTRIBUTES)[2].splitlines():
        if line.startswith(" "):
            found |= {name: f"{found.get(name, '')} {line}" for name in names}
        else:
            names = [name.strip() for name in line.partition(" : ")[0].split(",")]
    return found


def _default(value: Mapping[str, Any]) -> str:
    default = value.get("default", value.get("const"))
    return "–" if default is None else f"`{json.dumps(default, ensure_ascii=False)}`"


def _kind(value: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    if "anyOf" in value:
        return " or ".join(_kind(option, schema) for option in value["anyOf"] if option.get("type") != "null")
    resolved = _resolved(value, schema)
    if "enum" in resolved:
        return ", ".join(f"`{word}`" for word in resolved["enum"])
    if "const" in resolved:
        return f"`{resolved['const']}`"
    if resolved.get("type") == "array":
        return f"list of {_kind(resolved.get('items', {}), schema)}"
    return str(resolved.get("type", "text")) + _limits(resolved)


def _limits(value: Mapping[str, Any]) -> str:
    words = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    said = [f"{sign} {value[word]:g}" for word, sign in words.items() if word in value]
    return f" {', '.join(said)}" if said else ""


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# states --------------------------------------------------------------------------------------------------------------


def states_section() -> str:
    """The states with the comment that stands beside each in the code."""
    lines = [STATES_MARK, "", "## States", ""]
    for enumeration in (states.InstanceState, states.StudyState, states.Outcome, states.JobState, states.JobStage,
                        states.JobRole, states.DeliveryState, states.DocumentKind, states.DocumentState,
                        states.ParkReason, states.Standing, states.StandingAction, states.Reading,
                        states.TruthSource):  # fmt: skip
        lines += [*_enumeration(enumeration, Path(states.__file__)), ""]
    lines += ["## Reasons for not analysing", "", *_enumeration(refusals.Reason, Path(refusals.__file__))]
    return "\n".join(lines) + "\n"


def _enumeration(enumeration: EnumMeta, source: Path) -> list[str]:
    text = source.read_text(encoding="utf-8")
    body = text.partition(f"class {enumeration.__name__}(")[2]
    comments = dict(re.findall(r"^    ([A-Z_]+) = .*?  # (.*)$", body, flags=re.MULTILINE)[::-1])
    first_line = (enumeration.__doc__ or "").splitlines()[0]
    rows = [f"| {name} | {comments.get(name, '')} |" for name in enumeration.__members__]
    return [f"**{enumeration.__name__}**: {first_line}", "", "| state | means |", "|---|---|", *rows]


# conformance ---------------------------------------------------------------------------------------------------------


def conformance_page() -> str:
    """The DICOM conformance statement, in the order of PS3.2 annex A."""
    receiver = ReceiverSettings()
    syntaxes = list(contexts.TRANSFER_SYNTAXES)
    classes = contexts.storage_sop_classes()
    lines = [
        "# DICOM conformance statement",
        "",
        "Made from the code's own constants by `make docs`, in the order of PS3.2 annex A.",
        "",
        "## Overview",
        "",
        "radnode takes images by C-STORE, analyses them, and writes results as new series of the same study to",
        "archives, by C-STORE or STOW-RS. It never changes what it received and never deletes anything in an archive.",
        "",
        "| service | SOP class | user (SCU) | provider (SCP) |",
        "|---|---|---|---|",
        f"| Verification | {_class(scu.VERIFICATION)} | yes | yes |",
        f"| Storage | {len(classes)} classes, below | results only | yes |",
        "| Storage Commitment Push | 1.2.840.10008.1.20.1 | yes | no |",
        f"| Query | {_class(scu.STUDY_ROOT_FIND)} | yes | no |",
        "",
        "DICOMweb, as user agent: STOW-RS (PS3.18 10.5) and QIDO-RS (PS3.18 10.6).",
        "",
        "## Implementation",
        "",
        f"* Implementation Class UID `{implementation.IMPLEMENTATION_CLASS_UID}`",
        f"* Implementation Version Name `{implementation.IMPLEMENTATION_VERSION_NAME}`",
        f"* AE title as acceptor, by default: {', '.join(f'`{title}`' for title in receiver.ae_titles)}",
        f"* Largest PDU received, by default: {receiver.max_pdu_bytes} bytes",
        f"* Open associations, by default: {receiver.max_associations}",
        f"* TCP port, by default: {receiver.port}, on {receiver.host}",
        "",
        "## As acceptor",
        "",
        "Every storage class below is accepted in each of these transfer syntaxes. Of those offered in one",
        "presentation context the first in this order is taken:",
        "",
        *[f"{number}. {UID(syntax).name} (`{syntax}`)" for number, syntax in enumerate(syntaxes, start=1)],
        "",
        "Verification and Storage Commitment reports are accepted in Explicit and Implicit VR Little Endian.",
        "",
        "### Association rejection",
        "",
        "| reason | result | source | diagnostic |",
        "|---|--:|--:|--:|",
        *_rejections(),
        "",
        "### Status of C-STORE",
        "",
        "Success is answered only after the object is flushed to disk and entered in the ledger. Bytes are stored as",
        "they came; no attribute is coerced (level 2 of PS3.4 B.4.1).",
        "",
        "| status | meaning |",
        "|---|---|",
        *_status_rows(),
        "",
        "## As requestor: results",
        "",
        "| object | SOP class |",
        "|---|---|",
        *[f"| {role.value} | {'; '.join(_class(uid) for uid in _RESULT_CLASSES[role])} |" for role in Role],
        "",
        "All results are Explicit VR Little Endian. Where an archive accepts another uncompressed syntax alone, they",
        "are re-encoded for it. Pictures are uncompressed RGB.",
        "",
        "### Answers of an archive to C-STORE",
        "",
        "| status | the delivery is | what the ledger says |",
        "|---|---|---|",
        *_answers(),
        "",
        "ACCEPTED is not the end: the object is confirmed by storage commitment where the archive offers it, else by",
        "C-FIND at IMAGE level or QIDO-RS. RETRY is repeated without limit of attempts; REFUSED waits for a person.",
        "",
        "## Storage classes accepted",
        "",
        "What cannot be analysed is stored, entered in the ledger as such, and passed over.",
        "",
        *[f"* {_class(uid)}" for uid in classes],
        "",
        "## Character sets",
        "",
        "Results are written in ISO_IR 192 (UTF-8); attributes of patient and study are converted to it from the",
        "source's set. Where text of the source holds bytes beyond ASCII and does not certainly mean what its Specific",
        "Character Set says (none is declared, or the wrong one), nothing is converted: these bytes and the declared",
        "set, or its absence, are repeated as they are, so that the archive reads them as it reads the source. The",
        "node's own words in the attributes of such a result are English, whatever `language` the profile names,",
        "because the declared set may hold no Russian; words drawn in pictures are in the profile's language always.",
        "",
        "## Security",
        "",
        "TLS as requestor (BCP 195, at least TLS 1.2, certificates always checked). As acceptor: calling and called AE",
        "titles and peer addresses; no TLS of its own.",
    ]
    return "\n".join(lines) + "\n"


def _class(uid: str) -> str:
    return f"{UID(uid).name} (`{uid}`)"


def _rejections() -> list[str]:
    found = [value for value in vars(admission).values() if isinstance(value, admission.Rejection)]
    return [f"| {one.reason} | {one.result} | {one.source} | {one.diagnostic} |" for one in found]


def _status_rows() -> list[str]:
    meanings = {row.split(" | ")[0][2:]: row for row in _enumeration(command.Status, Path(command.__file__))[4:]}
    return [f"| {status.value:04X} |{meanings[status.name].partition(' |')[2]}" for status in command.Status]


def _answers() -> list[str]:
    named = [(f"{code:04X}", *answer) for code, answer in statuses._NAMED.items()]
    ranges = [(f"{codes.start:04X}–{codes.stop - 1:04X}", sent, why) for codes, sent, why in statuses._RANGES]
    return [f"| {code} | {sent.name} | {why or 'stored'} |" for code, sent, why in (*named, *ranges)]


def main() -> None:
    """Write what has changed."""
    for path, text in generate().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
