"""What a bundle's network says, in the words of a card's output and labels.

Called by `training.importing.monai`. The metadata name the kind of output and what each channel is; the transforms
after the network name its activation. Codes and thresholds are a person's business: see `models.draft`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from training.importing.bundle import METADATA, ImportRefused
from training.importing.expressions import Component
from training.importing.preprocessing import base_name

_BACKGROUND = frozenset({"background", "bg", "none", "negative background"})
OUTPUT_NAME = "prediction"


@dataclass(frozen=True, kw_only=True, slots=True)
class Meaning:
    """A card's [output] and, for each label, its key and its channel."""

    output: dict[str, object]
    labels: tuple[tuple[str, int], ...]
    marks: bool


def one_entry(metadata: Mapping[str, object], side: str) -> tuple[str, Mapping[str, object]]:
    """Name and description of the network's only input or output.

    Raises
    ------
    ImportRefused
        If the metadata have none, or several.
    """
    form = metadata.get("network_data_format")
    entries = form.get(side) if isinstance(form, Mapping) else None
    if not isinstance(entries, Mapping) or not entries:
        raise ImportRefused(f"{METADATA}: network_data_format has no {side}")
    if len(entries) > 1:
        raise ImportRefused(f"{METADATA}: the network has {len(entries)} {side}, only one is understood")
    name, entry = next(iter(entries.items()))
    if not isinstance(entry, Mapping):
        raise ImportRefused(f"{METADATA}: network_data_format::{side}::{name} is no table")
    return str(name), entry


def meaning_of(entry: Mapping[str, object], given: tuple[int, ...], axes: int, activation: str) -> Meaning:
    """The card's output for what the metadata say of it.

    Parameters
    ----------
    entry : mapping
        The output's entry of the metadata.
    given : tuple of int
        Shape of what the network gives for one picture.
    axes : int
        2 for pictures, 3 for volumes.
    activation : str
        A card's word.

    Raises
    ------
    ImportRefused
        If the kind of output is not understood, or does not go with what the network gives.
    """
    labels = _labels(entry, given[0])
    if len(given) == axes + 1:
        if activation == "softmax" and given[0] == 1:
            raise ImportRefused("the network gives one channel, of which a softmax is always 1")
        output: dict[str, object] = {"kind": "heatmap", "heatmap": OUTPUT_NAME, "activation": activation}
        return Meaning(output=output, labels=labels, marks=True)
    if len(given) == 1:
        output = {"kind": "probability", "probability": OUTPUT_NAME, "activation": activation}
        return Meaning(output=output, labels=labels, marks=False)
    raise ImportRefused(
        f"the network gives {given} for one picture ({entry.get('type')}, {entry.get('format')}): a map of the picture "
        "(segmentation) or one value for each class (classification) is understood"
    )


def _labels(entry: Mapping[str, object], channels: int) -> tuple[tuple[str, int], ...]:
    names = entry.get("channel_def")
    if not isinstance(names, Mapping) or not all(str(key).isdecimal() for key in names):
        raise ImportRefused(f"{METADATA}: the output has no channel_def, so it is not known what its channels are")
    numbered = {int(str(key)): str(name) for key, name in names.items()}
    if any(number >= channels for number in numbered):
        raise ImportRefused(f"{METADATA}: channel_def names {len(numbered)} channels, the network gives {channels}")
    labels = tuple((_key(name), number) for number, name in sorted(numbered.items()) if name.lower() not in _BACKGROUND)
    if not labels or len({key for key, _ in labels}) != len(labels):
        raise ImportRefused(f"{METADATA}: channel_def names no channel, or two alike")
    return labels


def _key(name: str) -> str:
    key = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return key if re.match(r"[a-z]", key) else f"label_{key}"


def activation_of(transforms: object, entry: Mapping[str, object]) -> str:
    """A card's word for what has to be done to the network's numbers.

    Parameters
    ----------
    transforms : list of Component
        After the network.

    Raises
    ------
    ImportRefused
        If nothing says it.
    """
    listed = transforms if isinstance(transforms, list) else []
    for transform in listed:
        if not isinstance(transform, Component):
            continue
        name, arguments = base_name(transform.target), transform.arguments
        if name == "Activations":
            if found := [word for word in ("sigmoid", "softmax") if arguments.get(word)]:
                return found[0]
            raise ImportRefused(f"{transform.place}: only sigmoid and softmax are understood")
        if name == "AsDiscrete" and arguments.get("argmax"):
            return "softmax"  # the strongest of channels that exclude each other
    if entry.get("value_range") == [0, 1] and not listed:
        return "none"
    raise ImportRefused(
        "postprocessing: no Activationsd says whether the network's numbers need a sigmoid or a softmax: add it to the "
        "bundle's inference configuration"
    )
