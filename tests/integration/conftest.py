"""Real archives and databases for the integration tests; what they are is in tests/archives.py and tests/ledgers.py."""

from tests.archives import orthanc, orthanc_server, storescp
from tests.ledgers import clock, ledger, ledger_url, postgresql_ledger_url
from tests.postgresql import postgresql_server

__all__ = [
    "clock",
    "ledger",
    "ledger_url",
    "orthanc",
    "orthanc_server",
    "postgresql_ledger_url",
    "postgresql_server",
    "storescp",
]
