"""Opening the ledger, its transactions, and bringing its schema up to date.

Called by every process of a node. SQLite runs in WAL mode with ``synchronous=FULL`` and takes its write lock at the
start of a transaction; PostgreSQL runs at its defaults. What is asked of the ledger is in the modules beside.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from dicom_node.clock import Clock, SteadyClock

if TYPE_CHECKING:
    from alembic.config import Config

BUSY_TIMEOUT_S = 30


class LedgerError(Exception):
    """The ledger cannot be opened or brought up to date; the message names the remedy."""


class Ledger:
    """One open ledger.

    Parameters
    ----------
    url : str
        SQLAlchemy address: ``sqlite:////path/ledger.sqlite3`` or ``postgresql+pg8000://user@host/name``.
    clock : Clock
        UTC now; the node's steady clock in production.
    """

    def __init__(self, url: str, *, clock: Clock | None = None) -> None:
        self.url = url
        self.clock: Clock = clock or SteadyClock.start()
        self.engine = _engine(url)
        self.is_sqlite = self.engine.dialect.name == "sqlite"

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """A transaction that writes; committed when the block ends well, else rolled back."""
        with self.engine.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that only reads: it takes no write lock."""
        with self.engine.connect() as plain:
            connection = plain.execution_options(radnode_read_only=True)
            with connection.begin():
                yield connection

    def lease_now(self, connection: sa.Connection) -> datetime:
        """UTC now by the clock that leases go by: the database's where machines share it, else the node's own."""
        if self.is_sqlite:
            return self.clock()
        epoch = connection.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=float(epoch))

    def migrate(self) -> None:
        """Bring the schema up to date; an older SQLite file is copied beside itself first.

        Raises
        ------
        LedgerError
            If the schema is newer than this version of the node, or the database refuses.
        """
        from alembic import command
        from alembic.script import ScriptDirectory
        from alembic.util import CommandError

        configuration = _alembic_configuration()
        scripts = ScriptDirectory.from_config(configuration)
        newest, known = scripts.get_current_head(), {script.revision for script in scripts.walk_revisions()}
        current = self.schema_version()
        if current == newest:
            return
        if current is not None and current not in known:
            raise LedgerError(
                f"the ledger's schema {current} is newer than this radnode, which knows {newest}: "
                "use the version of radnode that wrote it, or restore the copy made before its upgrade"
            )
        if current is not None:
            self._copy_before_upgrade(current)
        try:
            with self.engine.begin() as connection:
                configuration.attributes["connection"] = connection
                command.upgrade(configuration, "head")
        except (CommandError, sa.exc.SQLAlchemyError) as error:
            raise LedgerError(
                f"the ledger's schema {current or '(none yet)'} cannot be brought to {newest} "
                f"({type(error).__name__}); nothing was changed: check room and rights of the database"
            ) from error

    def schema_version(self) -> str | None:
        """Version of the schema in the database, or None for an empty one."""
        from alembic.runtime.migration import MigrationContext

        try:
            with self.read() as connection:
                return MigrationContext.configure(connection).get_current_revision()
        except sa.exc.DBAPIError as error:  # drivers do not agree on which error an unreachable database is
            raise LedgerError(
                f"the ledger at {self.engine.url.render_as_string()} cannot be opened: {error.orig}"
            ) from error

    def _copy_before_upgrade(self, version: str) -> None:
        database = self.engine.url.database
        if not self.is_sqlite or not database:
            return
        source = Path(database)
        copy = source.with_name(f"{source.name}.before-upgrade-from-{version}")
        # The file alone is not the ledger: what was committed last may be in the WAL beside it.
        with closing(sqlite3.connect(source)) as reading, closing(sqlite3.connect(copy)) as writing:
            reading.backup(writing)

    def close(self) -> None:
        """Let go of all connections."""
        self.engine.dispose()


def _engine(url: str) -> sa.Engine:
    if sa.engine.make_url(url).get_backend_name() != "sqlite":
        return sa.create_engine(url, pool_pre_ping=True, pool_size=5, max_overflow=10)
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False})
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    # The driver's own transaction handling would begin too late; _begin_sqlite does it.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={BUSY_TIMEOUT_S * 1000}", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    # IMMEDIATE takes the write lock now: a transaction that read first and wrote later could fail in the middle.
    read_only = connection.get_execution_options().get("radnode_read_only", False)
    connection.exec_driver_sql("BEGIN DEFERRED" if read_only else "BEGIN IMMEDIATE")


def _alembic_configuration() -> Config:
    from alembic.config import Config  # only migrating needs alembic

    configuration = Config()
    configuration.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return configuration
