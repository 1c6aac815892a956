"""What a FHIR server's answer means for the document: its HTTP status, its OperationOutcome, its entries.

Called by `client`. Pure: any bytes give an `Answer`. A reason names codes and paths of the standard, and as much of the
server's own words as `Discretion` lets through.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from dicom_node.ehr.answer import Accepted, Answer, Discretion, Refused, Retry
from dicom_node.ehr.exchange import HttpAnswer

SUCCESS: Final = range(200, 300)
CLIENT_ERROR: Final = range(400, 500)
# Not the document's fault, or not for long. 409 and 412 are decided by what the OperationOutcome says.
_WORTH_RETRYING: Final = frozenset(
    {
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.METHOD_NOT_ALLOWED,
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.CONFLICT,
        HTTPStatus.LOCKED,
        HTTPStatus.TOO_EARLY,
        HTTPStatus.TOO_MANY_REQUESTS,
    }
)
_REMEDIES: Final[dict[int, str]] = {
    HTTPStatus.UNAUTHORIZED: "check the token of the destination",
    HTTPStatus.FORBIDDEN: "allow this node's account to write there",
    HTTPStatus.NOT_FOUND: "url must be the base of the FHIR service",
    HTTPStatus.METHOD_NOT_ALLOWED: "url must be the base of a FHIR service that takes transactions",
    HTTPStatus.CONFLICT: "somebody else changes the same resource",
    HTTPStatus.PRECONDITION_FAILED: "more than one resource there has an identifier of this document",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "raise the limit of request size there",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "the service does not take FHIR JSON",
    HTTPStatus.UNPROCESSABLE_ENTITY: "the server's rules are against the document",
    HTTPStatus.TOO_MANY_REQUESTS: "the server asks to wait",
    HTTPStatus.SERVICE_UNAVAILABLE: "the server is not available now",
}
# IssueType codes (R4) under "transient": the server itself says that a later attempt may succeed.
_TRANSIENT: Final = frozenset(
    {"transient", "lock-error", "no-store", "exception", "timeout", "incomplete", "throttled"}
)
_DUPLICATE: Final = "duplicate"
_OF_DOCUMENTS: Final = ("Task/", "DiagnosticReport/", "Bundle/")  # a duplicate of anything else is no success
_MAX_ISSUES: Final = 3
_CODE: Final = re.compile(r"^[A-Za-z][A-Za-z0-9-]{0,31}$")
_PATH: Final = re.compile(r"^[A-Za-z][A-Za-z0-9.\[\]]{0,119}$")
_OWN_ID: Final = re.compile(r"([A-Z][A-Za-z]{1,63}/[A-Za-z0-9\-.]{1,64})(?:/_history/[A-Za-z0-9\-.]{1,64})?")
_STATUS: Final = re.compile(r"^([1-5][0-9]{2})\b")
_MAX_IDS: Final = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class _Issues:
    """What an OperationOutcome complains of: codes of errors, and words for a person."""

    codes: tuple[str, ...] = ()
    told: str = ""
    named: tuple[str, ...] = field(default=())


def judge(answer: HttpAnswer, discretion: Discretion) -> Answer:
    """Decide what became of the document."""
    if answer.redirect:
        told = f"the server redirects to {answer.redirect} (HTTP {answer.status}): set url to the final address"
        return Retry(reason=told)
    content = read_resource(answer.body)
    if answer.status in SUCCESS:
        return _judge_success(answer, content, discretion)
    issues = _issues(content, discretion)
    own = tuple(one for one in (*_own_ids([answer.location]), *issues.named) if one.startswith(_OF_DOCUMENTS))
    if _DUPLICATE in issues.codes and own:
        # The receiver has it already and says under which id: what an earlier attempt wanted to hear.
        return Accepted(receiver_ids=own)
    return _judge_failure(answer.status, issues, answer.retry_after_s)


def read_resource(body: bytes) -> dict[str, Any] | None:
    """Read the resource of an answer; None when it is none."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _judge_success(answer: HttpAnswer, content: dict[str, Any] | None, discretion: Discretion) -> Answer:
    kind = content.get("resourceType") if content else None
    if content is not None and kind == "Bundle":
        return _judge_entries(content, discretion)
    if content is not None and kind == "OperationOutcome":
        issues = _issues(content, discretion)
        if issues.codes:
            return _judge_failure(HTTPStatus.UNPROCESSABLE_ENTITY, issues, None)
    own = [*_own_ids([answer.location]), *_resource_id(content)]
    if own:
        return Accepted(receiver_ids=tuple(dict.fromkeys(own)))
    if not answer.body.strip() and answer.status != HTTPStatus.ACCEPTED:
        return Accepted()
    return Retry(reason="the answer names nothing that was stored: is url the base of the FHIR service?")


def _resource_id(content: Mapping[str, Any] | None) -> list[str]:
    if not content or content.get("resourceType") == "OperationOutcome":
        return []
    return list(_own_ids([f"{content.get('resourceType')}/{content.get('id')}"])) if content.get("id") else []


def _judge_entries(bundle: Mapping[str, Any], discretion: Discretion) -> Answer:
    """One status for each entry: servers without transactions answer 200 and fail in single entries."""
    if bundle.get("type") not in {"transaction-response", "batch-response"}:
        return Retry(reason="the answer is no transaction-response: is url the base of the FHIR service?")
    entries = [entry for entry in _items(bundle.get("entry")) if isinstance(entry, dict)]
    failures: list[Retry | Refused] = []
    ids: list[str] = []
    for number, entry in enumerate(entries):
        verdict = _judge_entry(entry, discretion)
        if isinstance(verdict, Accepted):
            ids += verdict.receiver_ids
        else:
            failures.append(_numbered(verdict, number))
    if not entries:
        return Retry(reason="the answer has no entries: nothing tells that the document was stored")
    # A refused entry stays refused however often the others are tried again.
    for failure in (*(one for one in failures if isinstance(one, Refused)), *failures):
        return failure
    return Accepted(receiver_ids=tuple(ids[:_MAX_IDS]))


def _judge_entry(entry: Mapping[str, Any], discretion: Discretion) -> Answer:
    response = entry.get("response")
    response = response if isinstance(response, dict) else {}
    found = _STATUS.match(str(response.get("status", "")))
    status = int(found[1]) if found else HTTPStatus.INTERNAL_SERVER_ERROR
    if status in SUCCESS:
        return Accepted(receiver_ids=tuple(_own_ids([str(response.get("location", ""))])))
    outcome = response.get("outcome")
    return _judge_failure(status, _issues(outcome if isinstance(outcome, dict) else None, discretion), None)


def _numbered(verdict: Retry | Refused, number: int) -> Retry | Refused:
    reason = f"entry {number}: {verdict.reason}"
    return Refused(reason=reason) if isinstance(verdict, Refused) else Retry(reason=reason)


def _judge_failure(status: int, issues: _Issues, retry_after_s: float | None) -> Retry | Refused:
    remedy = _REMEDIES.get(status, "see its log")
    reason = f"the server answered HTTP {status}: {remedy}" + (f" ({issues.told})" if issues.told else "")
    transient = bool(issues.codes) and all(code in _TRANSIENT for code in issues.codes)
    if status in CLIENT_ERROR and status not in _WORTH_RETRYING and not transient:
        return Refused(reason=reason)
    return Retry(reason=reason, after_s=retry_after_s)


def _issues(content: Mapping[str, Any] | None, discretion: Discretion) -> _Issues:
    """Read the errors of an OperationOutcome (R4); warnings and information are none."""
    if not content or content.get("resourceType") != "OperationOutcome":
        return _Issues()
    errors = [
        one
        for one in _items(content.get("issue"))
        if isinstance(one, dict) and one.get("severity") in {"error", "fatal"}
    ]
    texts = [_issue_text(one) for one in errors]
    told = [_told(one, text, discretion) for one, text in zip(errors, texts, strict=True)]
    return _Issues(
        codes=tuple(str(one.get("code", "")) for one in errors),
        told="; ".join(text for text in told[:_MAX_ISSUES] if text),
        named=tuple(_own_ids(texts)),
    )


def _issue_text(issue: Mapping[str, Any]) -> str:
    details = issue.get("details")
    words = [details.get("text") if isinstance(details, dict) else None, issue.get("diagnostics")]
    return " ".join(word for word in words if isinstance(word, str))


def _told(issue: Mapping[str, Any], text: str, discretion: Discretion) -> str:
    code = str(issue.get("code", ""))
    paths = [str(path) for path in _items(issue.get("expression")) or _items(issue.get("location"))]
    parts = [
        code if _CODE.match(code) else "",
        next((path for path in paths if _PATH.match(path)), ""),
        discretion.told(text),
    ]
    return " ".join(part for part in parts if part)


def _items(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _own_ids(texts: Sequence[str]) -> Iterator[str]:
    """Ids of resources, ``Type/id``, in an address or in words."""
    for text in texts:
        for found in _OWN_ID.finditer(text[:4096]):
            yield found[1]
