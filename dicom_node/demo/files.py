"""The settings and routes of the demonstration, as commented files: a person can start the same node from them.

`command` writes them into the output folder with the ports of that run; with the usual ports they are the files in
`examples/` (a test compares them). Every setting that is not written has its default, listed in `docs/settings.md`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

SETTINGS_FILE: Final = "radnode.toml"
ROUTES_FILE: Final = "routes.toml"
DESTINATION: Final = "archive"
NODE_AE: Final = "RADNODE"

_SETTINGS = """\
# Settings of one node. Try them:  radnode --settings {settings_file} check
# Every setting, with its default and its unit, is in docs/settings.md. A misspelt key is a fault, not ignored.

data_dir = "{data_dir}" # ledger, received files and results: a local disk. Relative to this file
routes_file = "{routes_file}"
accept_research = true # run models whose card says research; every result then carries the warning

[receiver]
host = "127.0.0.1" # loopback; the address of the hospital's network when the PACS is another machine
port = {dicom_port}{port_note}
ae_titles = ["{node_ae}"] # called AE titles answered to
# Who may send; without this line anyone who can connect:
# peers = [{{ ae_title = "PACS", addresses = ["192.0.2.10"] }}]

[assembly]
projection_quiet_s = 0.5 # CR, DX: whole after so many seconds without a new image
mammography_deadline_s = {mammography_deadline_s:g} # then a mammography with missing views is taken as INCOMPLETE
ct_deadline_s = {ct_deadline_s:g} # then a CT with missing slices is taken as INCOMPLETE

[worker]
count = 1 # processes that run models
device = "auto" # an NVIDIA GPU where there is one, else the CPU

[web]
host = "127.0.0.1" # /healthz, /metrics and /api/studies; put TLS and names in front before opening it
port = {web_port}{port_note}

[log]
level = "info"
format = "json" # "text" for people. No patient data at any level

# How results are written. Destinations name a profile.
[[profile]]
name = "default"
language = "{language}" # words in reports and on pictures: "ru" or "en"

# Where results go. Routes name destinations.
[[destination]]
name = "{destination}"
kind = "pacs" # DIMSE; "dicomweb" for STOW-RS and QIDO-RS
host = "127.0.0.1"
port = {archive_port}
called_ae = "{archive_ae}" # the archive's AE title
calling_ae = "{node_ae}" # ours, as the archive knows it
profile = "default"
confirm = "auto" # by storage commitment where the archive offers it, else by query

# Whom the patient's record is told by: docs/howto/record.md. Routes name these as destinations, too.
# [monitoring]
# time_zone = "Europe/Moscow" # of images that do not name theirs: documents say when a study was made
#
# [outbox]
# context_file = "context.toml" # what no DICOM header has: organisation, staff, where patients are looked up
#
# [[record]]
# name = "mis"
# kind = "semd" # unsigned drafts for the physician's system; also "fhir", "mllp" (HL7 v2) and "kafka" (Moscow)
# folder = "/srv/exchange/drafts"
# accept_research = true # or documents of models whose card says research are withheld
"""

ROUTES_TEXT: Final = f"""\
# Routes: which images go to which model, and where results go. Try them on a folder of DICOM files:
#   radnode --settings {SETTINGS_FILE} route --explain FOLDER
# A field is a list of patterns (* and ?), any of which may match; "!" excludes; "" matches an empty attribute.
# A study that no route matches ends as NO_ROUTE, and `radnode explain` says at which field it stumbled.

[[route]]
name = "chest"
model = "chest-opacity" # "chest-opacity@1.0.0" pins a version
destinations = ["{DESTINATION}"]
priority = 0 # higher goes first; urgent studies gain 5 more

[route.match]
modality = ["CR", "DX"]
body_part = ["CHEST", "THORAX", "LUNG", ""] # "" because many CR readers leave Body Part Examined empty
view = ["PA", "AP", ""]

[[route]]
name = "mammography"
model = "mammography-lesion"
destinations = ["{DESTINATION}"]
allow_secondary_capture = true # the sample films are digitised and come as such; leave it out for a mammograph

[route.match]
modality = ["MG"] # views that the model is not made for end with that reason in the study
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """What differs between the demonstration and the example; the defaults are the example's."""

    data_dir: str = "var"
    dicom_port: int = 11112
    web_port: int = 8042
    archive_port: int = 4242
    archive_ae: str = "ORTHANC"
    language: Literal["ru", "en"] = "ru"
    mammography_deadline_s: float = 300
    ct_deadline_s: float = 300


def settings_text(choices: Choices) -> str:
    """The settings file for these choices."""
    return _SETTINGS.format(
        settings_file=SETTINGS_FILE,
        routes_file=ROUTES_FILE,
        node_ae=NODE_AE,
        destination=DESTINATION,
        data_dir=choices.data_dir,
        dicom_port=choices.dicom_port,
        web_port=choices.web_port,
        port_note="" if choices.dicom_port else " # any free port; node.json in the data folder tells which",
        archive_port=choices.archive_port,
        archive_ae=choices.archive_ae,
        language=choices.language,
        mammography_deadline_s=choices.mammography_deadline_s,
        ct_deadline_s=choices.ct_deadline_s,
    )


def write_files(folder: Path, choices: Choices) -> Path:
    """Write both files into `folder`; returns the settings file."""
    settings_file = folder / SETTINGS_FILE
    settings_file.write_text(settings_text(choices), encoding="utf-8")
    (folder / ROUTES_FILE).write_text(ROUTES_TEXT, encoding="utf-8")
    return settings_file
