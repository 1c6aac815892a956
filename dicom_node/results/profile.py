"""The Profile: how results are written for a destination, read from the settings file.

A destination names its Profile; `result_set.encode` obeys it. Imports nothing heavy, because settings are read by
every command.
"""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# Part of every derived UID. Raise it whenever the same findings are written as other bytes than before.
ENCODER_VERSION = "2"


class SrClass(StrEnum):
    """Storage class of the structured report."""

    COMPREHENSIVE_3D = "comprehensive_3d"  # the default: newest class that viewers read
    COMPREHENSIVE = "comprehensive"  # for archives that do not accept Comprehensive 3D SR


class Profile(BaseModel):
    """How results are written for a destination.

    Objects that do not apply are left out whatever the profile says: no segmentation of projections, no mammography
    report of a chest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(default="default", pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    form: Literal["standard", "moscow"] = Field(
        default="standard",
        description="moscow: one report of fourteen TEXT items and one series of pictures in original resolution, "
        "nothing for a study that was not analysed; of the keys below only language, reject_superseded and "
        "first_series_number count then",
    )
    moscow_file: str = Field(
        default="moscow",
        description="names and words of that form: moscow for those that come with the product, or the path of a TOML "
        "file, relative to the settings file",
    )
    language: Literal["ru", "en"] = Field(
        default="ru",
        description="language of words on pictures and in reports; reports and series descriptions are English where "
        "the images' own character set is wrong or undeclared",
    )
    sr: bool = Field(default=True, description="TID 1500 structured report of the lesions found")
    sr_class: SrClass = SrClass.COMPREHENSIVE_3D
    overlay: bool = Field(default=True, description="RGB Secondary Capture series: marks, or a page that says why not")
    segmentation: bool = Field(default=True, description="BINARY segmentation, CT only")
    negative_sr: bool = Field(default=False, description="a separate report when nothing is found or not analysed")
    presentation_state: bool = Field(default=False, description="grey-scale softcopy presentation state, projections")
    mammography_cad_sr: bool = Field(default=False, description="Mammography CAD SR (TID 4000), mammograms only")
    reject_superseded: bool = Field(
        default=False, description="the archive honours IOCM: a replaced result is rejected by a key object"
    )
    overlay_max_side_px: int = Field(
        default=3072,
        ge=512,
        le=8192,
        description="pictures with a longer side are scaled down to it; smaller ones keep the original resolution",
    )
    first_series_number: int = Field(default=9101, ge=1, le=2_000_000, description="series numbers count up from here")

    @model_validator(mode="after")
    def _writes_something(self) -> Profile:
        if not (self.sr or self.overlay):
            raise ValueError("sr and overlay are both off: nobody would see a lesion")
        return self

    def beside(self, folder: Path) -> Profile:
        """The same with the Moscow form's file meant from `folder`, and read, so that its faults show at the start.

        Raises
        ------
        dicom_node.ehr.profile_file.ProfileError
            When that file cannot be read or breaks a rule.
        """
        if self.form != "moscow":
            return self
        from dicom_node.results.moscow.form import SHIPPED, read_form  # the standard form needs none of it

        name = self.moscow_file if self.moscow_file in SHIPPED else str(folder / self.moscow_file)
        read_form(name)
        return self.model_copy(update={"moscow_file": name})

    @property
    def writes_pictures(self) -> bool:
        """Whether every analysed study gets a series of pictures."""
        return self.overlay or self.form == "moscow"

    @property
    def writes_positive_report(self) -> bool:
        """Whether a study with findings gets a report."""
        return self.sr or self.form == "moscow"

    @property
    def writes_negative_report(self) -> bool:
        """Whether a study without findings gets a report."""
        return self.negative_sr or self.form == "moscow"

    @property
    def digest(self) -> str:
        """sha256 over everything the profile says, the Moscow form's file included; part of every derived UID.

        Raises
        ------
        dicom_node.ehr.profile_file.ProfileError
            When that file cannot be read or breaks a rule.
        """
        said = self.model_dump(mode="json", exclude={"form", "moscow_file"})
        if self.form == "moscow":
            from dicom_node.results.moscow.form import read_form

            said["moscow"] = read_form(self.moscow_file).digest
        canonical = json.dumps(said, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()
