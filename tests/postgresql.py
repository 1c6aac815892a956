"""A real PostgreSQL for the tests: a private cluster on a free loopback port, made once per session and thrown away.

Uses Debian's package ``postgresql`` (initdb and pg_ctl lie in ``/usr/lib/postgresql/<version>/bin``). The server
refuses to run as root, so it runs as the user ``postgres`` when the tests do. `fresh_database` gives each test its own.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.archives import free_port
from tests.conftest import missing

_BINARIES = "/usr/lib/postgresql"
_SETTINGS = "-c fsync=off -c listen_addresses=127.0.0.1 -c max_connections=100 -c log_min_messages=panic"


@dataclass
class PostgresqlServer:
    """A running cluster; every database of it belongs to the superuser ``radnode``, who needs no password."""

    port: int
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def url(self, database: str) -> str:
        """SQLAlchemy address of a database of this cluster."""
        return f"postgresql+pg8000://radnode@127.0.0.1:{self.port}/{database}"

    @contextmanager
    def fresh_database(self) -> Iterator[str]:
        """Address of a new empty database, dropped at the end."""
        name = f"ledger_{next(self._numbers)}"
        self._run(f"CREATE DATABASE {name}")
        try:
            yield self.url(name)
        finally:
            self._run(f"DROP DATABASE {name} WITH (FORCE)")

    def _run(self, statement: str) -> None:
        engine = sa.create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)
        engine.dispose()


@contextmanager
def running_postgresql() -> Iterator[PostgresqlServer]:
    """Make a cluster, run it, and remove it."""
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir=tempfile.gettempdir()))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
    server = PostgresqlServer(port=free_port())
    data = str(folder / "data")
    try:
        _run_binary("initdb", ["-D", data, "-U", "radnode", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C"])
        options = f"{_SETTINGS} -p {server.port} -k {folder}"
        _run_binary("pg_ctl", ["-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start"])
        try:
            yield server
        finally:
            _run_binary("pg_ctl", ["-D", data, "-m", "immediate", "-w", "stop"])
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgresqlServer]:
    """The session's PostgreSQL cluster."""
    if not list(Path(_BINARIES).glob("*/bin/initdb")):
        missing("PostgreSQL is not installed (Debian package postgresql)")
    with running_postgresql() as server:
        yield server


def _run_binary(name: str, arguments: Sequence[str]) -> None:
    program = max(Path(_BINARIES).glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    # pg_ctl leaves the server with its own descriptors: a pipe would never end.
    with tempfile.TemporaryFile() as output:
        done = subprocess.run([*as_user, str(program), *arguments], stdout=output, stderr=output, cwd="/", check=False)
        output.seek(0)
        if done.returncode:
            raise RuntimeError(f"{name} ends with {done.returncode}: {output.read().decode(errors='replace')}")
