"""Real archives for the tests: Orthanc (DIMSE and DICOMweb) and DCMTK storescp as child processes on loopback.

Used by the fixtures of tests/integration/conftest.py and by every test and benchmark that needs somewhere to deliver
to. Both keep storage and ports across `stop()` and `start()`, so that an archive can be down for a while. Small DICOM
objects to send come from `write_secondary_capture`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from dicom_node.delivery.archive import OutboundObject
from inference.findings import SeriesUid, SopUid, StudyUid
from tests.conftest import missing, require_tool

DICOMWEB_PLUGINS = (
    Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so"),
    Path("/usr/local/share/orthanc/plugins/libOrthancDicomWeb.so"),
)
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0


def free_port() -> int:
    """A TCP port of the loopback interface that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def write_secondary_capture(
    path: Path,
    *,
    study_uid: str | None = None,
    series_uid: str | None = None,
    sop_uid: str | None = None,
    side: int = 32,
    **attributes: object,
) -> Dataset:
    """Write a small grey Secondary Capture to `path` and return its data set; `attributes` override by keyword."""
    dataset = Dataset()
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = sop_uid or generate_uid()
    dataset.StudyInstanceUID = study_uid or generate_uid()
    dataset.SeriesInstanceUID = series_uid or generate_uid()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = "Проба^Архив"
    dataset.PatientID = "TEST-1"
    dataset.Modality = "OT"
    dataset.ConversionType = "WSD"
    dataset.StudyID, dataset.AccessionNumber = "1", ""
    dataset.StudyDate, dataset.StudyTime = "20260101", "120000"
    dataset.SeriesNumber, dataset.InstanceNumber = 1, 1
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows = dataset.Columns = side
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = bytes(side * side * 2)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta = meta
    dataset.save_as(path, enforce_file_format=True)
    return dataset


def as_outbound(path: Path, dataset: Dataset) -> OutboundObject:
    """The outbound object of a file whose data set is known."""
    return OutboundObject(
        study_uid=StudyUid(dataset.StudyInstanceUID),
        series_uid=SeriesUid(dataset.SeriesInstanceUID),
        sop_class_uid=dataset.SOPClassUID,
        sop_instance_uid=SopUid(dataset.SOPInstanceUID),
        transfer_syntax_uid=str(dataset.file_meta.TransferSyntaxUID),
        path=path,
    )


def outbound_set(folder: Path, count: int = 3) -> list[OutboundObject]:
    """Some small objects of one series, written below `folder`."""
    study, series = generate_uid(), generate_uid()
    paths = [folder / f"{n}.dcm" for n in range(count)]
    return [as_outbound(path, write_secondary_capture(path, study_uid=study, series_uid=series)) for path in paths]


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredInstance:
    """What Orthanc tells of one instance it holds."""

    sop_uid: str
    series_uid: str
    study_uid: str
    orthanc_id: str


class _Server:
    """A child process that listens on known ports, and can be stopped and started again."""

    def __init__(self, folder: Path, log_name: str) -> None:
        self.folder = folder
        self.log = folder / log_name
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self, *, kill: bool = False) -> None:
        """End the server; with `kill` as a power cut would. Stored objects stay."""
        process, self._process = self._process, None
        if process is None:
            return
        if kill:
            process.kill()
        else:
            process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT_S)

    def _spawn(self, command: list[str]) -> None:
        environment = {**os.environ, "TCP_NODELAY": "1", "LC_ALL": "C.UTF-8"}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment
            )

    def _wait_until_up(self, ports: tuple[int, ...]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        waiting = list(ports)
        while waiting:
            if not self.running or time.monotonic() > deadline:
                tail = self.log.read_text(errors="replace")[-2000:]
                self.stop(kill=True)
                raise RuntimeError(f"{type(self).__name__} did not start; the end of its log:\n{tail}")
            try:
                socket.create_connection(("127.0.0.1", waiting[0]), timeout=1.0).close()
            except OSError:
                time.sleep(0.02)
            else:
                waiting.pop(0)

    def start(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Orthanc(_Server):
    """An Orthanc with its DICOMweb plugin, its own storage folder and its own ports on loopback.

    Parameters
    ----------
    folder
        Where storage, index, configuration and log live.
    ae_title
        Its AE title; associations that call another one are rejected.
    settings
        Orthanc configuration that overrides what is set here.
    """

    def __init__(
        self, folder: Path, *, ae_title: str = "ORTHANC", settings: Mapping[str, object] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder, "orthanc.log")
        self._program = require_tool("Orthanc", hint="apt-get install orthanc orthanc-dicomweb")
        plugin = next((path for path in DICOMWEB_PLUGINS if path.exists()), None)
        if plugin is None:
            missing("the DICOMweb plugin of Orthanc is not installed (apt-get install orthanc-dicomweb)")
        self.ae_title = ae_title
        self.dimse_port = free_port()
        self.http_port = free_port()
        self._settings: dict[str, object] = {
            "Name": ae_title,
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "Plugins": [str(plugin)],
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAet": ae_title,
            "DicomPort": self.dimse_port,
            "DicomCheckCalledAet": True,
            "DicomAlwaysAllowEcho": True,
            "DicomAlwaysAllowStore": True,
            "DicomAlwaysAllowFind": True,
            "DicomAlwaysAllowGet": True,
            "DicomAlwaysAllowMove": True,
            "DicomModalitiesInDatabase": True,
            "DicomScuTimeout": 5,
            "OverwriteInstances": False,
            "StableAge": 1,
            "TcpNoDelay": True,
            "HttpThreadsCount": 8,
            "SaveJobs": False,
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": True, "WadoRoot": "/wado"},
            **(settings or {}),
        }
        self._http = httpx.Client(base_url=self.http_url, timeout=30.0, trust_env=False)

    @property
    def http_url(self) -> str:
        """Base address of the REST interface, without a slash at the end."""
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def dicomweb_url(self) -> str:
        """Root of STOW-RS, QIDO-RS and WADO-RS, without a slash at the end."""
        return f"{self.http_url}/dicom-web"

    def start(self) -> None:
        """Start, or start again with the same storage and ports; returns when both ports answer."""
        if self.running:
            return
        configuration = self.folder / "orthanc.json"
        configuration.write_text(json.dumps(self._settings), encoding="utf-8")
        self._spawn([self._program, str(configuration)])
        self._wait_until_up((self.http_port, self.dimse_port))

    def stop(self, *, kill: bool = False) -> None:
        super().stop(kill=kill)
        self._http.close()
        self._http = httpx.Client(base_url=self.http_url, timeout=30.0, trust_env=False)

    def get(self, path: str, **parameters: str) -> Any:
        """JSON answer of the REST interface to GET `path`."""
        response = self._http.get(path, params=parameters)
        response.raise_for_status()
        return response.json()

    def know(self, ae_title: str, port: int, *, name: str = "node") -> None:
        """Enter a DIMSE peer on loopback: needed for storage commitment, which Orthanc answers by calling it."""
        peer = {
            "AET": ae_title,
            "Host": "127.0.0.1",
            "Port": port,
            "AllowStorageCommitment": True,
            "AllowTranscoding": False,
        }
        self._http.put(f"/modalities/{name}", json=peer).raise_for_status()

    def forget(self, name: str = "node") -> None:
        """Remove a peer entered by `know`."""
        self._http.delete(f"/modalities/{name}").raise_for_status()

    def send_to(self, name: str, orthanc_ids: list[str]) -> None:
        """Let Orthanc C-STORE resources (of any level) to the peer `name`, and wait for it."""
        self._http.post(f"/modalities/{name}/store", json={"Resources": orthanc_ids}).raise_for_status()

    def upload(self, path: Path) -> None:
        """Put a DICOM file into the archive over REST."""
        self._http.post("/instances", content=path.read_bytes()).raise_for_status()

    def instances(self) -> tuple[StoredInstance, ...]:
        """Everything stored, one entry per stored instance (a duplicate would be two entries)."""
        found: list[StoredInstance] = []
        for study in self.get("/studies", expand=""):
            for series in self.get(f"/studies/{study['ID']}/series"):
                found.extend(
                    StoredInstance(
                        sop_uid=instance["MainDicomTags"]["SOPInstanceUID"],
                        series_uid=series["MainDicomTags"]["SeriesInstanceUID"],
                        study_uid=study["MainDicomTags"]["StudyInstanceUID"],
                        orthanc_id=instance["ID"],
                    )
                    for instance in self.get(f"/series/{series['ID']}/instances")
                )
        return tuple(found)

    def sop_uids(self) -> set[str]:
        """SOP Instance UIDs of everything stored."""
        return {instance.sop_uid for instance in self.instances()}

    def dicom_file(self, sop_uid: str) -> bytes:
        """The stored Part 10 file of one instance, as Orthanc keeps it."""
        (identifier,) = self._http.post("/tools/lookup", content=sop_uid).raise_for_status().json()
        return self._http.get(f"/instances/{identifier['ID']}/file").raise_for_status().content

    def clear(self) -> None:
        """Delete every patient and every peer."""
        for patient in self.get("/patients"):
            self._http.delete(f"/patients/{patient}").raise_for_status()
        for peer in self.get("/modalities"):
            self.forget(peer)


class StoreScp(_Server):
    """DCMTK's storescp: a second, plain archive that offers C-ECHO and C-STORE and nothing else.

    Parameters
    ----------
    folder
        Where received files go; its log lies beside it in `storescp.log`.
    options
        More options of storescp, for example ``("--refuse",)`` or ``("+xi",)``.
    """

    def __init__(self, folder: Path, *, ae_title: str = "STORESCP", options: tuple[str, ...] = ("+xa",)) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder, "storescp.log")
        self._program = require_tool("storescp", hint="apt-get install dcmtk")
        self.ae_title = ae_title
        self.dimse_port = free_port()
        self.received = folder / "received"
        self.received.mkdir(exist_ok=True)
        self._options = options

    def start(self) -> None:
        """Start, or start again with the same folder and port."""
        if self.running:
            return
        target = ["-aet", self.ae_title, "-od", str(self.received), *self._options, str(self.dimse_port)]
        self._spawn([self._program, "-v", "--fork", *target])
        self._wait_until_up((self.dimse_port,))

    def files(self) -> tuple[Path, ...]:
        """Files received so far."""
        return tuple(sorted(self.received.iterdir()))


class ScriptedServer:
    """A TCP server on loopback that does with each connection what `script` says: the peers nobody wishes for.

    Every connection is closed after its script, which may raise OSError when the other side is gone.
    """

    def __init__(self, script: Callable[[socket.socket], None]) -> None:
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with connection, contextlib.suppress(OSError):
                connection.settimeout(10.0)
                self._script(connection)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(STOP_TIMEOUT_S)
        assert not self._thread.is_alive(), "a script of the test did not end"


@pytest.fixture(scope="session")
def orthanc_server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One Orthanc for the whole run; tests take `orthanc`, which hands it over empty and running."""
    with Orthanc(tmp_path_factory.mktemp("orthanc")) as server:
        yield server


@pytest.fixture
def orthanc(orthanc_server: Orthanc) -> Orthanc:
    """A running and empty Orthanc; a test may stop and start it."""
    orthanc_server.start()
    orthanc_server.clear()
    return orthanc_server


@pytest.fixture
def storescp(tmp_path: Path) -> Any:
    """A running DCMTK storescp with an empty folder."""
    with StoreScp(tmp_path / "storescp") as server:
        yield server
