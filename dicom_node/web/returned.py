"""The way back over HTTP: reports, states of documents and signatures, for senders with a bearer token.

Added to the application by the node. Without a token in `[returned]` there are no such routes. Bodies are bounded while
they are read, and what comes is handled by `dicom_node.returned.desk`; an answer is an OperationOutcome, or an
acknowledgement where HL7 v2 came.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from dicom_node.ehr.inbound import MAX_BYTES
from dicom_node.returned.answer import Answer, Verdict
from dicom_node.returned.desk import ReturnDesk
from dicom_node.returned.folder import unframed
from dicom_node.returned.mllp import acknowledgement
from dicom_node.returned.settings import ReturnedSettings
from dicom_node.returned.statuses import MAX_SIGNATURE_BYTES, MAX_STATUS_BYTES
from dicom_node.stored_secret import SecretUnusable, read_secret

HL7_TYPE: Final = "application/hl7-v2"
FHIR_TYPE: Final = "application/fhir+json"
_RETRY_AFTER_S: Final = "30"

_STATUS: Final = {
    Verdict.TAKEN: HTTPStatus.OK,
    Verdict.IGNORED: HTTPStatus.OK,
    Verdict.REFUSED: HTTPStatus.UNPROCESSABLE_ENTITY,
    Verdict.UNREADABLE: HTTPStatus.BAD_REQUEST,
    Verdict.LATER: HTTPStatus.SERVICE_UNAVAILABLE,
}
# Of the value set issue-severity, and of issue-type (FHIR R4).
_ISSUE: Final = {
    Verdict.TAKEN: ("information", "informational"),
    Verdict.IGNORED: ("information", "informational"),
    Verdict.REFUSED: ("error", "business-rule"),
    Verdict.UNREADABLE: ("error", "invalid"),
    Verdict.LATER: ("error", "transient"),
}


class _TooLarge(Exception):
    pass


def add_returned(app: FastAPI, desk: ReturnDesk) -> None:
    """Add the routes, if the desk's settings name a token."""
    settings = desk.settings
    if not settings.has_token:
        return

    @app.post("/api/reports")
    async def take_report(request: Request) -> Response:
        return await _handled(request, settings, MAX_BYTES, lambda body: _report(desk, body))

    @app.post("/api/documents/{document_id}/state")
    async def take_state(request: Request, document_id: str) -> Response:
        def take(body: bytes) -> Response:
            return _outcome(desk.take_state(body, document_id))

        return await _handled(request, settings, MAX_STATUS_BYTES, take)

    @app.put("/api/documents/{document_id}/signature")
    async def take_signature(request: Request, document_id: str) -> Response:
        def take(body: bytes) -> Response:
            return _outcome(desk.take_signature(document_id, body))

        return await _handled(request, settings, MAX_SIGNATURE_BYTES, take)


async def _handled(
    request: Request, settings: ReturnedSettings, limit: int, take: Callable[[bytes], Response]
) -> Response:
    """Who sends is asked before anything is read."""
    if not _is_known(request, settings):
        return _issue(
            HTTPStatus.UNAUTHORIZED, "error", "login", "a bearer token is needed, and this is none that is known"
        )
    try:
        body = await _body(request, limit)
    except _TooLarge:
        told = f"the body is larger than {limit} bytes"
        return _issue(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "error", "too-long", told)
    return await run_in_threadpool(take, body)


def _is_known(request: Request, settings: ReturnedSettings) -> bool:
    scheme, _blank, shown = request.headers.get("authorization", "").partition(" ")
    try:
        token = read_secret(settings.token_env, settings.token_file, as_header=True)
    except SecretUnusable:
        return False
    same = hmac.compare_digest(shown.strip().encode("utf-8", "surrogateescape"), token.encode())
    return same and scheme.lower() == "bearer"


async def _body(request: Request, limit: int) -> bytes:
    announced = request.headers.get("content-length", "0")
    if not announced.isdigit() or int(announced[:20]) > limit:
        raise _TooLarge
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise _TooLarge
    return bytes(body)


def _report(desk: ReturnDesk, body: bytes) -> Response:
    if unframed(body[:16]).startswith(b"MSH"):
        message = unframed(body)
        answer = desk.take_hl7(message)
        return Response(
            acknowledgement(message, answer),
            status_code=_STATUS[answer.verdict],
            media_type=HL7_TYPE,
            headers=_waits(answer),
        )
    return _outcome(desk.take_fhir(body))


def _outcome(answer: Answer) -> Response:
    severity, code = _ISSUE[answer.verdict]
    where = [answer.field] if answer.field else []
    return _issue(_STATUS[answer.verdict], severity, code, answer.why, where, _waits(answer))


def _waits(answer: Answer) -> dict[str, str]:
    return {"Retry-After": _RETRY_AFTER_S} if answer.verdict is Verdict.LATER else {}


def _issue(
    status: HTTPStatus,
    severity: str,
    code: str,
    told: str,
    where: list[str] | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """An OperationOutcome of one issue."""
    issue: dict[str, object] = {"severity": severity, "code": code, "diagnostics": told}
    if where:
        issue["expression"] = where
    also = {"WWW-Authenticate": "Bearer"} if status is HTTPStatus.UNAUTHORIZED else {}
    return JSONResponse(
        {"resourceType": "OperationOutcome", "issue": [issue]},
        status_code=status,
        media_type=FHIR_TYPE,
        headers={**also, **(headers or {})},
    )
