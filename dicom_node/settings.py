"""The settings file: one TOML file that describes a node, read once, every fault reported at once.

Read by every command (`radnode --settings FILE`, or the variable RADNODE_SETTINGS); `docs/settings.md` and the JSON
Schema are generated from these classes. Rules for routing are a file of their own (`dicom_node.routing`). Secrets are
never written here: destinations name a variable or a file.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from dicom_node.assembly import AssemblyRules
from dicom_node.delivery.archive import Destination
from dicom_node.ehr.destinations import Record
from dicom_node.ehr.profile_file import ProfileError
from dicom_node.receiver import ReceiverSettings
from dicom_node.results.profile import Profile
from dicom_node.returned.settings import ReturnedSettings
from dicom_node.store import StoreLimits

SETTINGS_VARIABLE = "RADNODE_SETTINGS"


class SettingsError(Exception):
    """The settings cannot be used; the message names the file and every fault in it."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class LedgerSettings(_Section):
    """Where the ledger is."""

    url: str | None = None
    """SQLAlchemy address, `postgresql+pg8000://user@host/name`; absent: SQLite in the data folder."""


class StorageSettings(_Section):
    """The disk: watermarks and how long files are kept."""

    soft_free_bytes: int = Field(default=2 << 30, ge=0)
    """Below this much free space new associations are rejected for the moment."""
    hard_free_bytes: int = Field(default=512 << 20, ge=0)
    """Below this much free space instances are answered A700."""
    reserve_bytes: int = Field(default=64 << 20, ge=0)
    """Room kept back so that the ledger can still commit on a full disk."""
    retention_days: float = Field(default=7.0, ge=0)
    """A study's files are evicted only after this, and only when all its deliveries have ended."""

    @model_validator(mode="after")
    def _soft_above_hard(self) -> Self:
        if self.soft_free_bytes < self.hard_free_bytes:
            raise ValueError("soft_free_bytes must not be less than hard_free_bytes")
        return self

    @property
    def limits(self) -> StoreLimits:
        """As the store takes them."""
        return StoreLimits(
            soft_free_bytes=self.soft_free_bytes,
            hard_free_bytes=self.hard_free_bytes,
            reserve_bytes=self.reserve_bytes,
        )


class ModelsSettings(_Section):
    """Which models are installed."""

    folders: tuple[Path, ...] = ()
    """Folders that hold `NAME/VERSION/card.toml`; the project's own `models/zoo` is searched after them."""
    include_zoo: bool = True
    """Whether the models that come with radnode count as installed. They are research models and need a route."""


class WorkerSettings(_Section):
    """The processes that run models."""

    count: int = Field(default=1, ge=0, le=64)
    """Worker processes on this machine; 0 when other machines do the work."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models run; auto takes an NVIDIA GPU when one can be used."""
    runtime: Literal["auto", "onnx", "torch"] = "auto"
    """Which of the card's weights to run; auto prefers ONNX."""
    max_batch: int | None = Field(default=None, ge=1, le=256)
    """Most pictures in one batch; absent: 8 on a GPU, 1 on a CPU, where a batch gains nothing."""
    max_delay_s: float = Field(default=0.02, ge=0, le=10)
    """Longest time a picture waits for company in its batch."""
    loader_threads: int = Field(default=2, ge=1, le=64)
    """Threads that decode and preprocess while the model runs."""
    max_jobs_in_flight: int = Field(default=8, ge=1, le=256)
    """Studies a worker holds at a time."""
    lease_s: float = Field(default=60.0, gt=1)
    """After how long without a sign of life another worker takes the jobs of this one."""
    job_timeout_s: float = Field(default=600.0, gt=0)
    """Longest time in one stage of a job before its worker is ended."""
    memory_limit_mib: int = Field(default=8192, ge=512)
    """Resident memory at which a worker is ended."""
    ageing_s: float = Field(default=60.0, gt=0)
    """Waiting so long raises a job by one step of priority: nothing starves."""
    poll_s: float = Field(default=0.05, gt=0)
    """How often to ask the ledger for jobs."""


class ShadowSettings(_Section):
    """Shadows: versions that run beside the champion, for comparison only, when no champion has work."""

    max_queue: int = Field(default=200, ge=0)
    """With so many jobs waiting for a worker a new study gets no shadow; its account says so. 0: never a shadow."""
    max_wait_hours: float = Field(default=24.0, gt=0)
    """A shadow's job that waited so long is dropped. Until then it keeps its study's images from being evicted."""
    max_in_flight: int = Field(default=2, ge=1, le=256)
    """Studies that a worker holds for shadows at a time: few, so that a champion's study finds room at once."""


class _Patience(_Section):
    """How patiently something is brought to where it belongs."""

    first_retry_s: float = Field(default=10.0, gt=0)
    """Wait after the first failure; doubles from there, with jitter."""
    longest_retry_s: float = Field(default=900.0, gt=0)
    """The wait never grows beyond this; there is no limit to attempts."""

    @model_validator(mode="after")
    def _waits_grow(self) -> Self:
        if self.first_retry_s > self.longest_retry_s:
            raise ValueError("first_retry_s must not be more than longest_retry_s")
        return self


class DeliverySettings(_Patience):
    """How results leave."""

    first_confirm_s: float = Field(default=0.05, ge=0)
    """Wait before asking whether a sent result is there; doubles while it is not."""
    resend_after_confirmations: int = Field(default=10, ge=1)
    """Asked so often in vain, the result is sent again."""
    batch: int = Field(default=16, ge=1)
    """Result sets taken at a time per destination."""
    poll_s: float = Field(default=0.05, gt=0)
    """How often to ask the ledger for deliveries."""


class OutboxSettings(_Patience):
    """How documents for the regional record leave."""

    context_file: Path | None = None
    """What documents say beside the findings, and where it is looked up. Relative to the settings file."""
    first_confirm_s: float = Field(default=1.0, ge=0)
    """Wait before asking again for a document that the receiver acknowledged and does not show; doubles."""
    resend_after_confirmations: int = Field(default=5, ge=1)
    """Asked so often in vain, the document is sent again."""
    confirm_patience_s: float = Field(default=86400.0, gt=0)
    """A receiver that does not say for so long whether it has what it acknowledged is taken at its word."""
    batch: int = Field(default=16, ge=1)
    """Documents taken at a time per receiver."""
    max_written: int = Field(default=2000, ge=1)
    """So many documents are written ahead for a receiver that is behind; further ones wait as rows, without files."""
    parked_days: float = Field(default=30.0, gt=0)
    """A parked document that nobody looked at for so long becomes a dead letter and keeps its images no longer."""
    poll_s: float = Field(default=0.1, gt=0)
    """How often to ask the ledger for documents."""


class WebSettings(_Section):
    """Health and metrics over HTTP."""

    host: str = "127.0.0.1"
    """Loopback unless something in front adds TLS and names."""
    port: int = Field(default=8042, ge=0, le=65535)
    """0 takes any free port and writes it into `node.json` in the data folder."""


class MonitoringSettings(_Section):
    """What is counted of models in service, and from when on a figure is worth a warning (`radnode monitor`)."""

    time_zone: str | None = None
    """Zone that days, weeks and months go by, such as `Europe/Moscow`; absent: the zone of this machine."""
    late_after_s: float = Field(default=600.0, gt=0)
    """A result is late (defect class А) so long after the last image was received; what the contract says."""
    max_defect_share: float = Field(default=0.10, ge=0, le=1)
    """Share of studies with any technological defect above which there is an alarm."""
    min_studies: int = Field(default=50, ge=2)
    """With fewer analysed studies in a period, drift is not judged."""
    psi_notice: float = Field(default=0.10, gt=0)
    """Population stability index of the scores against the evaluation report, from which there is a notice."""
    psi_alarm: float = Field(default=0.25, gt=0)
    """The same, from which there is an alarm."""
    ks_notice_p: float = Field(default=0.01, gt=0, lt=1)
    """p of the Kolmogorov-Smirnov test of the scores below which there is a notice."""
    flag_rate_notice: float = Field(default=0.05, gt=0, lt=1)
    """Change of the share of positive studies against the report, if its interval excludes 0, for a notice."""
    flag_rate_alarm: float = Field(default=0.10, gt=0, lt=1)
    """The same, for an alarm."""
    cusum_drop: float = Field(default=0.10, gt=0, lt=1)
    """Loss of sensitivity against the report that the CUSUM is set to find."""
    cusum_false_alarm_every: float = Field(default=500.0, ge=10)
    """Positive readings between two false alarms of the CUSUM, on average, while sensitivity is as reported."""

    @model_validator(mode="after")
    def _alarms_above_notices(self) -> Self:
        if self.psi_notice > self.psi_alarm or self.flag_rate_notice > self.flag_rate_alarm:
            raise ValueError("a notice must not come later than its alarm")
        return self

    @field_validator("time_zone")
    @classmethod
    def _zone_is_known(cls, name: str | None) -> str | None:
        if name is not None:
            try:
                ZoneInfo(name)
            except (ZoneInfoNotFoundError, ValueError) as error:
                raise ValueError(f"no time zone {name!r} is known here; write it as Europe/Moscow") from error
        return name


class LogSettings(_Section):
    """Structured logs on standard error; no patient data at any level."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level written."""
    format: Literal["json", "text"] = "json"
    """json for machines, text for people."""


class Settings(_Section):
    """Everything a node is told."""

    data_dir: Path = Path("var")
    """Ledger, received files and results; a local disk. Relative to the settings file."""
    routes_file: Path | None = None
    """Routing rules; absent: every study ends as NO_ROUTE. Relative to the settings file."""
    accept_research: bool = True
    """Run models whose card says research or demonstration; their results carry the warning."""
    receiver: ReceiverSettings = ReceiverSettings()
    storage: StorageSettings = StorageSettings()
    assembly: AssemblyRules = AssemblyRules()
    ledger: LedgerSettings = LedgerSettings()
    models: ModelsSettings = ModelsSettings()
    worker: WorkerSettings = WorkerSettings()
    shadow: ShadowSettings = ShadowSettings()
    delivery: DeliverySettings = DeliverySettings()
    outbox: OutboxSettings = OutboxSettings()
    returned: ReturnedSettings = ReturnedSettings()
    web: WebSettings = WebSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    log: LogSettings = LogSettings()
    profile: tuple[Profile, ...] = (Profile(),)
    """Ways of writing results; destinations name one."""
    destination: tuple[Destination, ...] = ()
    """Archives that results are delivered to; routes name them."""
    record: tuple[Record, ...] = ()
    """Receivers of the regional record that documents are brought to; routes name them as destinations, too."""

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        faults = [*_twice("profile", self.profiles_list()), *_twice("destination", self.all_destinations_list())]
        known = set(self.profiles_list())
        for destination in (*self.destination, *self.record):
            if destination.profile not in known:
                faults.append(f"destination {destination.name} {self._unset(destination.profile)}")
        if self.assembly.archive_count and self.assembly.archive_count not in self.destinations_list():
            faults.append(f"assembly.archive_count names {self.assembly.archive_count!r}, which is no destination")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _unset(self, profile: str) -> str:
        known = self.profiles_list()
        told = f"names profile {profile!r}, which is not set; there are: {', '.join(known) or 'none'}"
        # The built-in one stands only where the file names none: a first profile of one's own takes it away unseen.
        if profile == Profile().name and known:
            told += f". A settings file that names a profile must name `{profile}`, too"
        return told

    def profiles_list(self) -> list[str]:
        """Names of the profiles, in order."""
        return [profile.name for profile in self.profile]

    def destinations_list(self) -> list[str]:
        """Names of the archives, in order."""
        return [destination.name for destination in self.destination]

    def records_list(self) -> list[str]:
        """Names of the receivers of the record, in order."""
        return [destination.name for destination in self.record]

    def all_destinations_list(self) -> list[str]:
        """Names that a route may send to: archives, then receivers of the record."""
        return [*self.destinations_list(), *self.records_list()]

    def profile_of(self, destination_name: str) -> Profile:
        """The profile of a destination, be it an archive or a receiver of the record.

        Raises
        ------
        KeyError
            If there is no such destination.
        """
        for destination in (*self.destination, *self.record):
            if destination.name == destination_name:
                return next(profile for profile in self.profile if profile.name == destination.profile)
        raise KeyError(destination_name)

    @property
    def ledger_url(self) -> str:
        """Address of the ledger: as set, else SQLite in the data folder."""
        return self.ledger.url or f"sqlite:///{self.data_dir / 'ledger.sqlite3'}"

    @property
    def model_folders(self) -> tuple[Path, ...]:
        """Where models are looked for, in order."""
        zoo = (Path(__file__).resolve().parents[1] / "models" / "zoo",) if self.models.include_zoo else ()
        return self.models.folders + zoo


def _twice(kind: str, names: list[str]) -> list[str]:
    return [f"two {kind}s are called {name!r}" for name in sorted(set(names)) if names.count(name) > 1]


def read_settings(path: Path | None = None) -> Settings:
    """Read the settings file; without one, the defaults.

    Parameters
    ----------
    path : Path, optional
        The file; else the one that the variable RADNODE_SETTINGS names; else no file.

    Raises
    ------
    SettingsError
        Naming the file and every fault in it.
    """
    named = path or (Path(os.environ[SETTINGS_VARIABLE]) if os.environ.get(SETTINGS_VARIABLE) else None)
    if named is None:
        return _beside(Settings(), Path.cwd())
    try:
        data = tomllib.loads(named.read_text(encoding="utf-8"))
        return _beside(Settings.model_validate(data), named.resolve().parent)
    except OSError as error:
        raise SettingsError(f"{named}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{named}: not valid TOML: {error}") from error
    except ProfileError as error:
        raise SettingsError(f"{named}: {error}") from error
    except ValidationError as error:
        raise SettingsError(f"{named}: {error.error_count()} fault(s)\n{_faults(error)}") from error


def _faults(error: ValidationError) -> str:
    return "\n".join(
        f"  {'.'.join(map(str, fault['loc'])) or 'settings'}: {fault['msg'].removeprefix('Value error, ')}"
        for fault in error.errors(include_url=False)
    )


def _beside(settings: Settings, folder: Path) -> Settings:
    """Relative paths are meant from the settings file, wherever the command is started."""
    return settings.model_copy(
        update={
            "data_dir": folder / settings.data_dir,
            "routes_file": folder / settings.routes_file if settings.routes_file else None,
            "profile": tuple(one.beside(folder) for one in settings.profile),
            "destination": tuple(_files_beside(one, folder) for one in settings.destination),
            "record": tuple(_files_beside(one, folder) for one in settings.record),
            "outbox": settings.outbox.model_copy(
                update={"context_file": folder / settings.outbox.context_file if settings.outbox.context_file else None}
            ),
            "returned": settings.returned.beside(folder),
            "models": settings.models.model_copy(
                update={"folders": tuple(folder / one for one in settings.models.folders)}
            ),
        }
    )


def _files_beside(destination: Destination | Record, folder: Path) -> Destination | Record:
    """Secrets, certificates, folders and profiles of documents too are named from the settings file."""
    own: dict[str, object] = {
        name: folder / value
        for name in ("password_file", "token_file", "folder")
        if isinstance(value := getattr(destination, name, None), Path)
    }
    document = getattr(destination, "document", "")
    if document.endswith(".toml"):  # any other word is a profile that comes with the product
        own["document"] = str(folder / document)
    if destination.tls is None:
        return destination.model_copy(update=own)
    certificates = {
        name: folder / value
        for name in ("ca_file", "certificate_file", "key_file")
        if isinstance(value := getattr(destination.tls, name), Path)
    }
    return destination.model_copy(update={**own, "tls": destination.tls.model_copy(update=certificates)})
