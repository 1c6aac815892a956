"""The FastAPI application: `/healthz`, `/metrics`, `/api`, `/monitoring`. Read-only, on loopback unless set so.

Built by `node`, served by uvicorn in a thread. What is shown of a study is `dicom_node.account`, the same that
`radnode explain` prints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fastapi import FastAPI, HTTPException, Response
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from dicom_node.account import account_of, destination_lines, document_json, newest_studies
from dicom_node.health import Health
from dicom_node.ledger import Ledger, documents
from dicom_node.monitoring.build import Monitor
from dicom_node.settings import Settings
from dicom_node.states import DocumentState
from dicom_node.web.monitoring import add_monitoring
from inference.findings import StudyUid
from models.card import ModelCard

MAX_STUDIES = 500


def build_app(
    ledger: Ledger,
    registry: CollectorRegistry,
    health: Callable[[], Health],
    monitor: Monitor | None = None,
    cards: Callable[[], Mapping[str, ModelCard]] = dict,
    settings: Settings | None = None,
) -> FastAPI:
    """The application over an open ledger; without `monitor` it has no monitoring, without `cards` no report in words.

    `cards` gives the cards of the installed models by reference; without `settings` there are no destinations.
    """
    app = FastAPI(title="radnode", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/healthz")
    def healthz() -> JSONResponse:
        now = health()
        return JSONResponse(now.to_json(), status_code=200 if now.is_well else 503)

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/api/studies")
    def list_studies(limit: int = 50) -> list[dict[str, object]]:
        return [row.to_json() for row in newest_studies(ledger, limit=min(max(limit, 1), MAX_STUDIES))]

    @app.get("/api/studies/{study_uid}")
    def one_study(study_uid: str) -> dict[str, object]:
        account = account_of(ledger, StudyUid(study_uid), cards())
        if account is None:
            raise HTTPException(status_code=404, detail="no such study")
        return account.to_json()

    @app.get("/api/destinations")
    def list_destinations() -> list[dict[str, object]]:
        return [line.to_json() for line in destination_lines(ledger, settings)] if settings else []

    @app.get("/api/documents")
    def list_documents(state: DocumentState, limit: int = 50) -> list[dict[str, object]]:
        with ledger.read() as tx:
            found = documents.in_states(tx, [state], destination=None, limit=min(max(limit, 1), MAX_STUDIES))
        return [{"study_uid": row.study_uid, **document_json(row)} for row in found]

    if monitor is not None:
        add_monitoring(app, monitor)
    return app
