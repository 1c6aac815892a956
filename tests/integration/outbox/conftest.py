"""What every test of the outbox begins with: a receiver on a real socket, and a rig that brings drafts to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.outbox.courier import Courier
from tests.outbox_desk import Build, rigs
from tests.outbox_rig import MoodyService, OutboxRig, moody_service


@pytest.fixture
def service() -> Iterator[MoodyService]:
    """The receiver, honest until a test says otherwise."""
    with moody_service(MoodyService()) as running:
        yield running


@pytest.fixture
def build(tmp_path: Path, service: MoodyService) -> Iterator[Build]:
    """Makes rigs whose receiver is `service`, with settings laid over."""
    with rigs(tmp_path, service) as make:
        yield make


@pytest.fixture
def rig(build: Build) -> OutboxRig:
    """A rig with the settings as they are shipped."""
    return build()


@pytest.fixture
def courier(rig: OutboxRig) -> Courier:
    """The courier of the receiver; closed with its rig."""
    return rig.courier("emr")
