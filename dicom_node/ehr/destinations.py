"""`Record`: every kind of receiver of the regional record, as the `[[record]]` tables of the settings name them.

Settings are read by every command, so nothing here loads what only a writer or a sender needs.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from dicom_node.ehr.fhir.destination import FhirDestination
from dicom_node.ehr.hl7v2.destination import MllpDestination
from dicom_node.ehr.moscow.destination import KafkaDestination
from dicom_node.ehr.semd.destination import SemdDestination

Record: TypeAlias = Annotated[
    FhirDestination | MllpDestination | SemdDestination | KafkaDestination, Field(discriminator="kind")
]
