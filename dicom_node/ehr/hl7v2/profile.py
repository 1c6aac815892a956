"""How one receiver wants its ORU^R01: names of the two sides, codes of the service and of the sections of the text.

A profile is a TOML file; ``plain`` comes with the product, any other is a path.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from dicom_node.ehr.profile_file import read_profile_file

SHIPPED: Final = ("plain",)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class CodedElement(_Part):
    """A code with its text and its coding system of HL7 table 0396."""

    code: Annotated[str, Field(min_length=1, max_length=20)]
    text: str
    system: Annotated[str, Field(min_length=1, max_length=20)]


class OruProfile(_Part):
    """What differs from receiver to receiver."""

    sending_application: str = "RADNODE"
    sending_facility: str = ""
    """Empty: the OID of the organisation that made the study."""
    receiving_application: str = ""
    receiving_facility: str = ""
    processing_id: Literal["P", "T", "D"] = "P"
    """Production, training or debugging (table 0103)."""
    country: str = "RUS"
    service: CodedElement = CodedElement(code="18748-4", text="Diagnostic imaging study", system="LN")
    description: CodedElement = CodedElement(
        code="18782-3", text="Radiology Study observation (narrative)", system="LN"
    )
    conclusion: CodedElement = CodedElement(code="19005-8", text="Radiology Imaging study [Impression]", system="LN")
    recommendation: CodedElement = CodedElement(code="18783-1", text="Radiology Study recommendation", system="LN")
    diagnostic_section: str = "RAD"
    """OBR-24 (table 0074)."""
    patient_class: str = "N"
    """PV1-2 (table 0004), where an encounter is known; N is not applicable."""
    patient_authority: str = ""
    """Assigning authority of patient identifiers that come without one: OID or name."""
    national_id_type: str = "NNRUS"
    """Type of the SNILS in PID-3 (table 0203); empty leaves the SNILS out."""
    accession_number_required: bool = True
    """Stop a document without an accession number: few receivers find the study by its UID alone."""


_ADAPTER: Final = TypeAdapter(OruProfile)


def read_profile(name: str) -> OruProfile:
    """Read a profile that comes with the product, or the TOML file at a path.

    Raises
    ------
    ProfileError
        When it cannot be read or breaks a rule.
    """
    return read_profile_file(name, _ADAPTER, package="dicom_node.ehr.hl7v2", shipped=SHIPPED)
