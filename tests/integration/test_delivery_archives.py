"""The archives of the tests are real: what is stored is found again, also after they were down."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.archives import Orthanc, StoreScp, write_secondary_capture
from tests.conftest import require_tool


def store(path: Path, server: Orthanc | StoreScp) -> None:
    command = [require_tool("storescu"), "-aec", server.ae_title, "127.0.0.1", str(server.dimse_port), str(path)]
    subprocess.run(command, check=True, timeout=30)


def test_orthanc_keeps_what_it_stored_over_a_restart(orthanc: Orthanc, tmp_path: Path) -> None:
    sent = write_secondary_capture(tmp_path / "a.dcm")
    store(tmp_path / "a.dcm", orthanc)
    orthanc.stop(kill=True)
    orthanc.start()
    (kept,) = orthanc.instances()
    assert (kept.sop_uid, kept.study_uid) == (sent.SOPInstanceUID, sent.StudyInstanceUID)
    assert sent.PixelData in orthanc.dicom_file(kept.sop_uid)


def test_storescp_receives_one_file(storescp: StoreScp, tmp_path: Path) -> None:
    write_secondary_capture(tmp_path / "a.dcm")
    store(tmp_path / "a.dcm", storescp)
    assert len(storescp.files()) == 1
