"""Migrations of the ledger: from nothing, from an older file, and not from a newer one, on both databases."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from dicom_node.ledger import Ledger, database
from dicom_node.ledger.database import LedgerError
from dicom_node.ledger.schema import job, label_score, metadata
from tests.archives import free_port
from tests.ledgers import TestClock, instance, open_ledger, record
from tests.service import findings

_NEXT = '''"""A migration of a later version."""
import sqlalchemy as sa
from alembic import op
revision, down_revision = "0004", "0003"
def upgrade():
    op.add_column("study", sa.Column("later", sa.Text()))
    {more}
'''


def with_next_migration(monkeypatch: pytest.MonkeyPatch, folder: Path, more: str = "pass") -> None:
    """Let the ledger find, besides its own, a migration that a later version might bring."""
    (folder / "0004_later.py").write_text(_NEXT.format(more=more))
    own = Path(database.__file__).parent / "migrations" / "versions"
    configuration = database._alembic_configuration

    def extended() -> object:
        found = configuration()
        found.set_main_option("version_locations", f"{own} {folder}")
        found.set_main_option("path_separator", "space")
        return found

    monkeypatch.setattr(database, "_alembic_configuration", extended)


def test_an_empty_database_is_brought_to_exactly_the_schema_of_the_code(ledger_url: str, clock: TestClock) -> None:
    fresh = Ledger(ledger_url, clock=clock)
    assert fresh.schema_version() is None
    fresh.migrate()
    assert fresh.schema_version() == "0003"
    with fresh.read() as tx:
        differences = compare_metadata(MigrationContext.configure(tx), metadata)
    fresh.close()
    assert differences == []


def test_what_autogeneration_does_not_compare_is_there_too(ledger_url: str, clock: TestClock) -> None:
    with open_ledger(ledger_url, clock) as ledger:
        inspector = sa.inspect(ledger.engine)
        for table in metadata.sorted_tables:
            indexes = {index["name"]: index for index in inspector.get_indexes(table.name)}
            assert {index.name for index in table.indexes} <= set(indexes), table.name
            unique = {found["name"] for found in inspector.get_unique_constraints(table.name)}
            named = {found.name for found in table.constraints if isinstance(found, sa.UniqueConstraint)}
            assert named <= unique, table.name
            assert len(inspector.get_foreign_keys(table.name)) == len(table.foreign_keys)
            if table.name == "result_set":
                assert indexes["result_set_one_current"]["unique"]


def test_migrating_twice_changes_nothing(ledger_url: str, clock: TestClock) -> None:
    with open_ledger(ledger_url, clock) as ledger:
        record(ledger, instance())
        ledger.migrate()
        assert record(ledger, instance()).kind == "duplicate"


def test_a_schema_of_a_later_version_is_refused_with_the_remedy(ledger_url: str, clock: TestClock) -> None:
    with open_ledger(ledger_url, clock) as ledger:
        with ledger.begin() as tx:
            tx.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(LedgerError, match=r"9999 is newer.*use the version of radnode that wrote it"):
            ledger.migrate()


def test_an_older_ledger_is_upgraded_with_its_rows(
    ledger_url: str, clock: TestClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_ledger(ledger_url, clock) as ledger:
        record(ledger, instance())
        with_next_migration(monkeypatch, tmp_path)
        ledger.migrate()
        assert ledger.schema_version() == "0004"
        assert record(ledger, instance()).kind == "duplicate"
        assert "later" in {column["name"] for column in sa.inspect(ledger.engine).get_columns("study")}


def test_a_migration_that_fails_changes_nothing(
    ledger_url: str, clock: TestClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_ledger(ledger_url, clock) as ledger:
        with_next_migration(monkeypatch, tmp_path, more='op.execute("SELECT nothing FROM nowhere")')
        with pytest.raises(LedgerError, match="nothing was changed"):
            ledger.migrate()
        assert ledger.schema_version() == "0003"
        assert "later" not in {column["name"] for column in sa.inspect(ledger.engine).get_columns("study")}


def test_an_sqlite_ledger_is_copied_before_its_upgrade_with_what_was_committed_last(
    clock: TestClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = tmp_path / "versions"
    versions.mkdir()
    with open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}", clock) as ledger:
        record(ledger, instance())  # in the WAL only: the connection stays open
        with_next_migration(monkeypatch, versions)
        ledger.migrate()
    copy = tmp_path / "ledger.sqlite3.before-upgrade-from-0003"
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT count(*) FROM instance").fetchone() == (1,)
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("0003",)


def test_an_unreachable_ledger_says_where_it_was_looked_for_and_no_password(tmp_path: Path) -> None:
    port = free_port()
    for url, told in (
        (f"postgresql+pg8000://radnode:geheim@127.0.0.1:{port}/ledger", f"127.0.0.1:{port}/ledger"),
        (f"sqlite:///{tmp_path}/absent/ledger.sqlite3", "absent/ledger.sqlite3"),
    ):
        with pytest.raises(LedgerError, match=told) as caught:
            Ledger(url).schema_version()
        assert "geheim" not in str(caught.value)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite3").write_bytes(b"this is not a database, it is a letter to the editor" * 99)
    with pytest.raises(LedgerError, match=r"ledger\.sqlite3 cannot be opened"):
        Ledger(f"sqlite:///{tmp_path}/ledger.sqlite3").migrate()


def test_sqlite_commits_survive_a_power_cut(tmp_path: Path, clock: TestClock) -> None:
    with open_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}", clock) as ledger, ledger.read() as tx:
        pragmas = {name: tx.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in ("journal_mode", "synchronous")}
        assert pragmas == {"journal_mode": "wal", "synchronous": 2}
        assert tx.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1


def test_jobs_that_ended_before_get_verdict_and_scores_from_their_findings(ledger_url: str, clock: TestClock) -> None:
    from alembic import command

    old = Ledger(ledger_url, clock=clock)
    configuration = database._alembic_configuration()
    with old.engine.begin() as connection:
        configuration.attributes["connection"] = connection
        command.upgrade(configuration, "0001")
    spoken = [findings("1.2.1", 0.8, images=2), findings("1.2.2", 0.2, lesions=1), None]
    with old.begin() as tx:
        for number, said in enumerate(spoken, start=1):
            values = {"uid": f"1.2.{number}", "findings": said.to_json() if said else None}
            tx.execute(sa.text(_OLD_STUDY), values)
            tx.execute(sa.text(_OLD_JOB), values)
    old.migrate()
    with old.read() as tx:
        verdicts = tx.execute(sa.select(job.c.positive).order_by(job.c.study_uid)).scalars().all()
        rows = tx.execute(sa.select(label_score.c.label, label_score.c.score, label_score.c.present)).all()
    old.close()
    assert verdicts == [True, True, None]
    assert sorted(map(tuple, rows)) == [("opacity", 0.2, False), ("opacity", 0.8, True)]


_OLD_STUDY = """INSERT INTO study (study_uid, state, revision, calling_ae, first_received_at, last_received_at,
    revision_started_at) VALUES (:uid, 'complete', 1, 'CR', 0, 0, 0)"""
_OLD_JOB = """INSERT INTO job (study_uid, revision, model_name, model_version, model_digest, role, route, destinations,
    instance_ids, sources_digest, incomplete, priority, state, queued_at, findings) VALUES (:uid, 1, 'toy', '1.0.0',
    'm', 'champion', 'r', '[]', '[]', 'd', false, 0, 'succeeded', 0, :findings)"""
