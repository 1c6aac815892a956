"""UIDs of result objects, derived from what they say: the same result is the same UID, other content another one.

Used by every writer of this package. Derivation makes a retried delivery harmless: the archive sees the same objects
again instead of a second set.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from dicom_node.results.profile import ENCODER_VERSION
from dicom_node.results.request import EncodeRequest, Role
from inference.findings import SeriesUid, SopUid, StudyUid


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultKey:
    """Everything that decides the identity of a result set.

    `model` is the model's digest or, without a model's word, the reason of the refusal; `findings` is the digest of
    the canonical findings, empty for a refusal.
    """

    study_uid: StudyUid
    inputs: str
    model: str
    findings: str
    profile: str

    def instance_uid(self, role: Role, ordinal: int = 0) -> SopUid:
        """SOP Instance UID of the `ordinal`-th object of `role`."""
        return SopUid(self._derive("instance", role, ordinal))

    def series_uid(self, role: Role) -> SeriesUid:
        """Series Instance UID of all objects of `role`."""
        return SeriesUid(self._derive("series", role, 0))

    def inner_uid(self, purpose: str, role: Role, ordinal: int = 0) -> str:
        """UID of something inside an object, such as a dimension organisation."""
        return self._derive(purpose, role, ordinal)

    def _derive(self, kind: str, role: Role, ordinal: int) -> str:
        parts = (
            ENCODER_VERSION,
            kind,
            self.study_uid,
            self.inputs,
            self.model,
            self.findings,
            self.profile,
            role.value,
            str(ordinal),
        )
        return uid_of(*parts)


def uid_of(*parts: str) -> str:
    """A UID of the form ``2.25.<128 bits>`` (PS3.5 B.2) from the sha256 of `parts`.

    The version and variant bits of a name-based UUID are set, so that the number is the decimal form of a valid UUID.
    """
    digest = hashlib.sha256("\x1f".join(parts).encode()).digest()
    number = int.from_bytes(digest[:16], "big")
    number = (number & ~(0xF << 76)) | (0x8 << 76)  # version 8: custom, RFC 9562
    number = (number & ~(0x3 << 62)) | (0x2 << 62)  # variant
    return f"2.25.{number}"


def result_key(request: EncodeRequest) -> ResultKey:
    """The identity of the set that `request` asks for.

    A refusal has no digest of decoded inputs; the UIDs of the images it is about stand in, so that a study that grew
    and is refused again gets a page of its own.
    """
    if request.findings is not None:
        return ResultKey(
            study_uid=request.study_uid,
            inputs=request.findings.inputs_digest,
            model=request.findings.model.model_digest,
            findings=request.findings.digest,
            profile=request.profile.digest,
        )
    assert request.refusal is not None
    model = request.card.model_digest if request.card else ""
    return ResultKey(
        study_uid=request.study_uid,
        inputs=hashlib.sha256("\n".join(sorted(request.sources)).encode()).hexdigest(),
        model=f"{model}:{request.refusal}",
        findings="",
        profile=request.profile.digest,
    )
