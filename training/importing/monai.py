"""Imports a MONAI bundle: its parts are read, its network is written as ONNX, and a card is drafted beside it.

Called by `radnode models import`. The folder appears whole or not at all. What the bundle cannot know (codes, intended
use, what the threshold rests on) comes from a file of the user's, or stays blank: see `models.draft`.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from models.card import CardError, read_card
from models.draft import blanks, draft_card, laid_over, to_card_toml
from training.importing.bundle import METADATA, MOST_WEIGHTS_BYTES, Bundle, ImportRefused, open_bundle
from training.importing.config import Config, read_config
from training.importing.expressions import Component
from training.importing.meaning import OUTPUT_NAME, Meaning, activation_of, meaning_of, one_entry
from training.importing.network import INPUT_NAME, build, given_shape, load_weights, turned, write_onnx
from training.importing.preprocessing import VOLUME, Prepared, understood

ONNX_FILE, CARD_FILE = "model.onnx", "card.toml"
CONFIGS = ("configs/inference.json", "configs/inference.yaml", "configs/inference.yml")
WEIGHTS = "models/model.pt"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{1,62}")
_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """What was written.

    Attributes
    ----------
    folder : Path
        With `model.onnx` and `card.toml`.
    blanks : tuple of str
        What is left to fill in; with none the card is complete.
    notes : tuple of str
        Where the node does not do exactly what the bundle does.
    """

    folder: Path
    blanks: tuple[str, ...]
    notes: tuple[str, ...]


def import_bundle(
    path: Path,
    into: Path,
    *,
    name: str | None = None,
    version: str | None = None,
    known: Mapping[str, object] | None = None,
) -> Imported:
    """Import a bundle into ``into/NAME/VERSION``.

    Parameters
    ----------
    path : Path
        The bundle's folder or zip.
    into : Path
        A folder of models, as the settings name it.
    name, version : str or None
        None takes the bundle's own.
    known : mapping or None
        Parts of a card that the user has written.

    Raises
    ------
    ImportRefused
        If anything of the bundle is not understood, or the model is there already. Nothing is written then.
    """
    bundle = open_bundle(path)
    metadata = _metadata(bundle)
    name = _name(name or str(metadata.get("name") or path.name.removesuffix(".zip")))
    version = _version(version or str(metadata.get("version", "")))
    folder = into / name / version
    if folder.exists():
        raise ImportRefused(f"{folder}: is there already; give another --version, or remove it")
    into.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".importing-", dir=into))  # where no search for models looks
    try:
        prepared, meaning = _write_network(bundle, metadata, partial / ONNX_FILE)
        card = _card(metadata, prepared, meaning, partial / ONNX_FILE, name=name, version=version, known=known or {})
        (partial / CARD_FILE).write_text(to_card_toml(card), encoding="utf-8")
        left = blanks(card)
        if not left:
            _check_card(partial / CARD_FILE)
        partial.chmod(0o755)
        folder.parent.mkdir(exist_ok=True)
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Imported(folder=folder, blanks=left, notes=prepared.notes)


def _metadata(bundle: Bundle) -> dict[str, object]:
    data = bundle.read(METADATA)
    try:
        found = json.loads((data or b"").decode("utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ImportRefused(f"{METADATA}: cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ImportRefused(f"{METADATA}: holds no table")
    return found


def _name(text: str) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60]
    if not _NAME.fullmatch(name):
        raise ImportRefused(f"{text!r} gives no name of a model: give one with --name, of small letters, digits and -")
    return name


def _version(text: str) -> str:
    if not _VERSION.fullmatch(text):
        raise ImportRefused(f"{text!r} is no version of three numbers: give one with --version, for example 1.0.0")
    return text


def _config(bundle: Bundle) -> Config:
    for name in CONFIGS:
        if (data := bundle.read(name)) is not None:
            return read_config(name, data)
    raise ImportRefused(f"there is none of {', '.join(CONFIGS)}: it says how pictures reach the network")


def _write_network(bundle: Bundle, metadata: Mapping[str, object], file: Path) -> tuple[Prepared, Meaning]:
    config = _config(bundle)
    component = config.value("network_def" if "network_def" in config else "network")
    if not isinstance(component, Component):
        raise ImportRefused("network_def: describes no network")
    key, entry = one_entry(metadata, "inputs")
    output_entry = one_entry(metadata, "outputs")[1]
    axes = _axes(component, entry)
    tile, overlap = _window(config)
    prepared = understood(_transforms(config, "preprocessing"), axes=axes, key=key, tile=tile, overlap=overlap)
    network = build(component)
    data = bundle.read(WEIGHTS, most_bytes=MOST_WEIGHTS_BYTES)
    if data is None:
        raise ImportRefused(f"there is no {WEIGHTS}: only a file of weights is imported, no TorchScript (model.ts)")
    load_weights(network, data, WEIGHTS)
    served, shape = turned(network, prepared.axes), _shape(prepared.input)
    activation = activation_of(_transforms(config, "postprocessing"), output_entry)
    meaning = meaning_of(output_entry, given_shape(served, shape), axes, activation)
    write_onnx(served, shape, OUTPUT_NAME, file)  # last, for it takes longest
    return prepared, meaning


def _axes(component: Component, entry: Mapping[str, object]) -> int:
    """2 for pictures, 3 for volumes."""
    axes = component.arguments.get("spatial_dims", component.arguments.get("dimensions"))
    shape = entry.get("spatial_shape")
    if axes is None and isinstance(shape, list):
        axes = len(shape)
    if axes not in (2, VOLUME) or isinstance(axes, bool) or not isinstance(axes, int):
        raise ImportRefused("neither the network's spatial_dims nor the metadata's spatial_shape says 2 or 3 axes")
    return axes


def _transforms(config: Config, key: str) -> object:
    """The list of transforms of a Compose, or none."""
    if key not in config:
        return None
    found = config.value(key)
    if isinstance(found, Component) and found.target.rpartition(".")[2] == "Compose":
        return found.arguments.get("transforms")
    raise ImportRefused(f"{key}: no Compose with a list of transforms")


def _window(config: Config) -> tuple[tuple[int, ...] | None, float]:
    """Tile and overlap of a sliding window; no tile where the whole picture is looked at."""
    inferer = config.value("inferer") if "inferer" in config else None
    if inferer is None or (isinstance(inferer, Component) and inferer.target.rpartition(".")[2] == "SimpleInferer"):
        return None, 0.0
    if not isinstance(inferer, Component) or inferer.target.rpartition(".")[2] != "SlidingWindowInferer":
        raise ImportRefused("inferer: only SimpleInferer and SlidingWindowInferer are understood")
    size, overlap = inferer.arguments.get("roi_size"), inferer.arguments.get("overlap", 0.25)
    if not isinstance(size, (list, tuple)) or not all(isinstance(side, int) and side > 0 for side in size):
        raise ImportRefused("inferer: roi_size must be a list of whole numbers above 0")
    if isinstance(overlap, bool) or not isinstance(overlap, (int, float)) or not 0 <= overlap < 1:
        raise ImportRefused("inferer: overlap must be a number from 0 to 1")
    return tuple(size), float(overlap)


def _shape(model_input: Mapping[str, object]) -> tuple[int, ...]:
    """Of one picture or tile, channels first."""
    if model_input["kind"] == "volume":
        tile = model_input["tile"]
        assert isinstance(tile, list)
        return (1, *tile)
    sides = (model_input["channels"], model_input["height"], model_input["width"])
    return tuple(int(str(side)) for side in sides)


def _card(
    metadata: Mapping[str, object],
    prepared: Prepared,
    meaning: Meaning,
    file: Path,
    *,
    name: str,
    version: str,
    known: Mapping[str, object],
) -> dict[str, object]:
    said = {
        "identity": {
            "manufacturer": str(metadata.get("authors") or "")[:64],
            "description": {"en": str(metadata.get("description") or "")},
        },
        "intended_use": {"statement": {"en": str(metadata.get("intended_use") or "")}},
        "training": {
            "description": str(metadata.get("data_source") or ""),
            "citation": "; ".join(map(str, _listed(metadata.get("references")))),
        },
        "limits": [{"en": note, "ru": ""} for note in prepared.notes] or [{"en": "", "ru": ""}],
    }
    weights = {"runtime": "onnx", "file": ONNX_FILE, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    draft = draft_card(
        name=name,
        version=version,
        weights=weights,
        model_input={**prepared.input, "tensor": INPUT_NAME},
        output=meaning.output,
        labels=meaning.labels,
        marks=meaning.marks,
        known=said,
    )
    return laid_over(draft, known)


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _check_card(path: Path) -> None:
    try:
        read_card(path)
    except CardError as error:
        raise ImportRefused(f"the card would not be valid: {error}") from error
