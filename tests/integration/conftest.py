"""Real archives for the integration tests; what they are is in tests/archives.py."""

from tests.archives import orthanc, orthanc_server, storescp

__all__ = ["orthanc", "orthanc_server", "storescp"]
