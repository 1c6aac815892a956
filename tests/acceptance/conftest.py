"""An archive and a node for the acceptance tests; what they are is in tests/archives.py and tests/running_node.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.archives import Orthanc


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """A real Orthanc for the tests of one module."""
    orthanc = Orthanc(tmp_path_factory.mktemp("archive"))
    orthanc.start()
    yield orthanc
    orthanc.stop()
