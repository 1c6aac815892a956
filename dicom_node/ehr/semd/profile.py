"""The form of a SEMD as data: one edition of the rules (a file shipped here) and what an installation adds to it.

Read once by whoever configures a destination; the writer and the check of `dicom_node.ehr.semd` take all identifiers,
codes and names from here, so that another edition is another file.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, cached_property
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from dicom_node.ehr.context import SourceStudy
from dicom_node.ehr.profile_file import ProfileError, read_profile_file
from models.codes import Code

Oid = Annotated[str, Field(pattern=r"^[0-2](\.(0|[1-9][0-9]*))+$")]
Token = Annotated[str, Field(pattern=r"^\S+$")]

SHIPPED: Final = ("edition4",)

__all__ = [
    "SHIPPED",
    "CodeMap",
    "Dictionaries",
    "Dictionary",
    "ProfileError",
    "SemdEdition",
    "SemdProfile",
    "SemdSite",
    "StudyRule",
    "edition_4",
    "read_edition",
]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Dictionary(_Part):
    """A federal dictionary (НСИ), and of its codes those that are written."""

    oid: Oid
    name: str = Field(min_length=1)
    version: str = Field(pattern=r"^[0-9]+(\.[0-9]+)*$")
    codes: Mapping[Token, str] = Field(default_factory=dict, description="code to its name, to the letter")
    open: bool = Field(default=False, description="codes that are not listed are taken with the name they come with")
    second_hand: bool = Field(default=False, description="name or version was not checked against the dictionary")


class Dictionaries(_Part):
    """Every dictionary that the document names."""

    documents: Dictionary
    fields: Dictionary
    sections: Dictionary
    confidentiality: Dictionary
    sexes: Dictionary
    events: Dictionary
    service_forms: Dictionary
    service_conditions: Dictionary
    positions: Dictionary
    visits: Dictionary
    places: Dictionary
    diagnoses: Dictionary
    studies: Dictionary
    units: Dictionary
    locations: Dictionary
    lateralities: Dictionary
    pathologies: Dictionary
    regions: Dictionary
    identity_documents: Dictionary
    policies: Dictionary
    address_types: Dictionary


class Roots(_Part):
    """Last arc of an identifier's root by what it identifies."""

    document: int
    document_set: int
    patient: int
    staff: int
    encounter: int
    finding: int
    device: int


class FixedCodes(_Part):
    """Codes of which the edition allows one value only."""

    document: Token
    event: Token
    order: Token
    dose_unit: Token
    address_type: Token


class Fields(_Part):
    """Codes of the fields of the body."""

    visit: Token
    place: Token
    diagnosis: Token
    dose: Token
    equipment: Token
    location: Token
    laterality: Token
    ordinal: Token
    pathology: Token
    protocol_number: Token
    protocol: Token
    conclusion: Token
    recommendation: Token


class StudyRule(_Part):
    """When a study is the one that `code` names.

    A body part that the header does not name fits every rule. `words` and `without` are looked for in the description,
    in lower case: any of the one, none of the other.
    """

    code: Token
    modalities: tuple[str, ...] = Field(min_length=1)
    body_parts: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def fits(self, study: SourceStudy) -> bool:
        """Whether `study` is of this kind."""
        said = study.description.casefold()
        part = study.body_part.strip().upper()
        return (
            study.modality in self.modalities
            and (not part or not self.body_parts or part in self.body_parts)
            and (not self.words or any(word.casefold() in said for word in self.words))
            and not any(word.casefold() in said for word in self.without)
        )


class CodeMap(_Part):
    """Codes of findings (``"SCT:39607008"``) to codes of the dictionaries."""

    locations: Mapping[str, Token] = Field(default_factory=dict)
    lateralities: Mapping[str, Token] = Field(default_factory=dict)
    pathologies: Mapping[str, Token] = Field(default_factory=dict)


class SemdEdition(_Part):
    """One edition of the document's rules."""

    edition: int
    title: str = Field(min_length=1)
    register_kind: Token = Field(description="kind of document in the federal register")
    template_id: Oid
    recipient_oid: Oid
    recipient_name: str = Field(min_length=1)
    related_document: bool = Field(description="whether the schema knows relatedDocument")
    ordinal: bool = Field(description="whether the number of a lesion is written as a coded field")
    roots: Roots
    codes: FixedCodes
    fields: Fields
    dictionaries: Dictionaries
    studies: tuple[StudyRule, ...]
    map: CodeMap


class SemdSite(_Part):
    """What an installation adds: how its system numbers documents, and codes that only it needs."""

    system: str = Field(
        default="1.1", pattern=r"^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)$", description="number of the system and instance"
    )
    place: Token | None = Field(default=None, description="place of care, НСИ 1.2.643.5.1.13.13.11.1008")
    visit: Token | None = Field(default=None, description="kind of visit where the encounter does not say it")
    service_form: Token | None = Field(default=None, description="form of care, НСИ 1.2.643.5.1.13.13.11.1551")
    service_condition: Token | None = Field(default=None, description="conditions, НСИ 1.2.643.5.1.13.13.99.2.322")
    confidentiality: Token = "N"
    codes: Mapping[str, Mapping[Token, str]] = Field(
        default_factory=dict, description="dictionary to further codes and their names: codes.regions.16 = '...'"
    )
    versions: Mapping[str, str] = Field(default_factory=dict, description="dictionary to the version now in force")
    studies: tuple[StudyRule, ...] = Field(default=(), description="asked before the rules of the edition")
    map: CodeMap = CodeMap()

    @model_validator(mode="after")
    def _names_dictionaries(self) -> SemdSite:
        unknown = sorted({*self.codes, *self.versions} - set(Dictionaries.model_fields))
        if unknown:
            raise ValueError(f"no such dictionary: {', '.join(unknown)}")
        return self


class SemdProfile(_Part):
    """An edition with the site's additions worked in: what the writer and the check look things up in."""

    edition: SemdEdition
    site: SemdSite = SemdSite()

    @model_validator(mode="after")
    def _site_is_known(self) -> SemdProfile:
        asked = {
            "places": self.site.place,
            "visits": self.site.visit,
            "service_forms": self.site.service_form,
            "service_conditions": self.site.service_condition,
            "confidentiality": self.site.confidentiality,
        }
        unknown = {key for key, code in asked.items() if code is not None and self.name_of(key, code) is None}
        unknown |= {"studies" for rule in self.site.studies if self.name_of("studies", rule.code) is None}
        for key in CodeMap.model_fields:
            unknown |= {key for code in getattr(self.site.map, key).values() if self.name_of(key, code) is None}
        if unknown:
            raise ValueError(f"codes without a name in the profile, add them under codes: {', '.join(sorted(unknown))}")
        return self

    def dictionary(self, key: str) -> Dictionary:
        """The dictionary called `key` in the profile, its codes and version as this site has them."""
        return self._dictionaries[key]

    @cached_property
    def _dictionaries(self) -> Mapping[str, Dictionary]:
        """All dictionaries with the site's codes and versions in them; a document asks for hundreds of names."""
        made = {}
        for key in Dictionaries.model_fields:
            found: Dictionary = getattr(self.edition.dictionaries, key)
            changes = {
                "codes": {**found.codes, **self.site.codes.get(key, {})},
                "version": self.site.versions.get(key, found.version),
            }
            made[key] = found.model_copy(update=changes)
        return made

    def name_of(self, key: str, code: str | None) -> str | None:
        """What `code` is called in the dictionary `key`; None where the profile does not know it."""
        return None if code is None else self.dictionary(key).codes.get(code)

    def study_code(self, study: SourceStudy) -> str | None:
        """Which study was made, by the first rule that fits; None where none does."""
        rules = (*self.site.studies, *self.edition.studies)
        return next((rule.code for rule in rules if rule.fits(study)), None)

    def mapped(self, key: str, code: Code | None) -> str | None:
        """What a finding's `code` is in the dictionary `key` (locations, lateralities, pathologies)."""
        if code is None:
            return None
        words = f"{code.scheme}:{code.value}"
        found: str | None = getattr(self.site.map, key).get(words) or getattr(self.edition.map, key).get(words)
        return found

    def root(self, organisation_oid: str, what: str) -> str:
        """Root of the identifiers of `what` (a field of `Roots`) that this system gives within an organisation."""
        return f"{organisation_oid}.100.{self.site.system}.{getattr(self.edition.roots, what)}"


def read_edition(name: str) -> SemdEdition:
    """Read and check an edition: a shipped one (``edition4``) or the file at that path.

    Raises
    ------
    ProfileError
        If it cannot be read or breaks a rule; the message names the file and every fault.
    """
    return read_profile_file(name, TypeAdapter(SemdEdition), package=__package__, shipped=SHIPPED)


@cache
def edition_4() -> SemdEdition:
    """The edition that is shipped."""
    return read_edition("edition4")
