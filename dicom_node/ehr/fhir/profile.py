"""How one receiver wants its FHIR: the plain transaction of R4, or a region's own set of resources.

A profile is a TOML file. Two come with the product, by name: ``plain`` and ``odii``; any other is a path. What is known
of a region only at second hand (header scheme, code systems, kinds of task) stands in its file and nowhere in code.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from dicom_node.ehr.profile_file import read_profile_file

SHIPPED: Final = ("plain", "odii")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class TokenHeader(_Part):
    """The header that carries the token."""

    name: str = "Authorization"
    scheme: str = "Bearer"
    """Word before the token; empty where the header holds the token alone."""


class Coded(_Part):
    """A code that a profile demands."""

    system: str
    code: str
    display: str = ""


class PlainProfile(_Part):
    """The transaction bundle of R4: Device, Patient, ImagingStudy, Observations, DiagnosticReport, Provenance."""

    kind: Literal["plain"]
    token_header: TokenHeader = TokenHeader()
    path: str = ""
    """Where transactions are posted, below the destination's url."""
    report_code: Coded = Coded(system="http://loinc.org", code="18748-4", display="Diagnostic imaging study")
    patient_system: str = ""
    """System of patient identifiers that come without one: OID or URI."""


class RegionalProfile(_Part):
    """A region's exchange: a Task on the Task that ordered, a partial DiagnosticReport, two Observations, a Binary."""

    kind: Literal["regional"]
    token_header: TokenHeader
    path: str = ""
    patient_system: str = ""
    task_intent: str
    task_status: str
    task_code: Coded | None = None
    report_status: str
    report_code: Coded
    observation_status: str
    description_code: Coded
    conclusion_code: Coded
    documents: Literal["binary", "inline"] = "binary"
    """Attachments as a Binary each, under an id of ours, or inside the report."""
    organisation_system: str
    """System of the identifiers of organisations."""
    meta_profiles: dict[str, str] = Field(default_factory=dict)
    """Address of the profile that each kind of resource claims; none is claimed for a kind that is not named."""


FhirProfile: TypeAlias = Annotated[PlainProfile | RegionalProfile, Field(discriminator="kind")]
_ADAPTER: Final[TypeAdapter[PlainProfile | RegionalProfile]] = TypeAdapter(FhirProfile)


def read_profile(name: str) -> PlainProfile | RegionalProfile:
    """Read a profile that comes with the product, or the TOML file at a path.

    Raises
    ------
    ProfileError
        When it cannot be read or breaks a rule.
    """
    return read_profile_file(name, _ADAPTER, package="dicom_node.ehr.fhir", shipped=SHIPPED)
