"""Structured logs on standard error, and the promise that no patient data gets into them.

Every process of the node calls `set_up_logging` once. Exceptions are logged as the kind of error and where it happened,
never with their text: texts of libraries quote values, and values are patient data.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from types import TracebackType
from typing import Literal

import structlog
from structlog.typing import EventDict, WrappedLogger

_INNERMOST_FRAMES = 6


def set_up_logging(level: str, form: Literal["json", "text"]) -> None:
    """Write logs of `level` and above to standard error, one line each."""
    renderer = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _errors_without_values,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries log values of data sets at lower levels; only their alarms are wanted, and those go through us.
    logging.basicConfig(level=logging.CRITICAL, stream=sys.stderr, format="%(name)s %(levelname)s")
    for name in ("pydicom", "pynetdicom", "highdicom", "httpx", "httpcore", "uvicorn", "alembic", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # Warnings and errors that nobody caught would be printed with their texts by Python itself.
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.CRITICAL)
    sys.excepthook = _uncaught
    threading.excepthook = lambda told: _uncaught(told.exc_type, told.exc_value, told.exc_traceback)


def _uncaught(_kind: type[BaseException], error: BaseException | None, _trace: TracebackType | None) -> None:
    structlog.get_logger(__name__).critical("uncaught error", exc_info=error)


def _errors_without_values(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    found = event.pop("exc_info", None)
    error = sys.exc_info()[1] if found is True else found[1] if isinstance(found, tuple) else found
    if isinstance(error, BaseException):
        event["error"] = type(error).__name__
        event["where"] = _where(error.__traceback__)
        if code := _database_code(error):
            event["database_error"] = code
    return {key: type(value).__name__ if isinstance(value, BaseException) else value for key, value in event.items()}


def _database_code(error: BaseException) -> str:
    """What the database calls its error: a name of SQLite or a SQLSTATE of PostgreSQL, never its text."""
    driver_error = getattr(error, "orig", None)
    name = getattr(driver_error, "sqlite_errorname", None)
    if name:
        return str(name)
    fields = driver_error.args[0] if isinstance(driver_error, BaseException) and driver_error.args else None
    return str(fields.get("C", "")) if isinstance(fields, dict) else ""


def _where(trace: TracebackType | None) -> str:
    frames = traceback.extract_tb(trace)[-_INNERMOST_FRAMES:]
    return " > ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in frames)
