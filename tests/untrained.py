"""The end of a card whose model was made by hand and never trained, for the models of the tests."""

from __future__ import annotations

# A part of a template: the manifest's digest is filled in with the rest of the card.
UNTRAINED = """
[training]
description = "none: nothing is trained"
licence = "none"
citation = "none"
films = 0
patients = 0
manifest_sha256 = "{manifest}"

[evaluation]
method = "none"
command = "none"
"""
