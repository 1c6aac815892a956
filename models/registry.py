"""Finds installed models and hands out their weights and guards, verified.

A root folder holds ``<name>/<version>/card.toml`` with the weights beside the card; the project's own models are in
`models/zoo`. Called by `inference.engine`, `radnode models` and `radnode check`. Weights are read once, their digest
is taken from the very bytes that are then run, so a file that changes in between cannot slip through.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.card import CardError, ModelCard, Runtime, WeightsFile, read_card
from models.onnx_file import has_external_data

ZOO = Path(__file__).parent / "zoo"
_CARD = "card.toml"
_MAX_WEIGHTS_BYTES = 4 << 30


class WeightsError(Exception):
    """Weights are missing, are not those of the card, or reach outside their folder. Permanent until reinstalled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InstalledModel:
    """A card and the folder it lies in."""

    card: ModelCard
    folder: Path

    @property
    def runtimes(self) -> tuple[Runtime, ...]:
        """Runtimes for which there are weights, in the card's order."""
        return tuple(weights.runtime for weights in self.card.weights)

    def weights(self, runtime: Runtime) -> bytes:
        """The weights for `runtime`, exactly the bytes whose sha256 the card names.

        Raises
        ------
        WeightsError
            If the card has none for this runtime, or the file is absent, a link, altered, or refers to other files.
        """
        for file in self.card.weights:
            if file.runtime is runtime:
                return _verified(self.folder, file, self.card.reference)
        raise WeightsError(f"{self.card.reference}: no weights for runtime {runtime}")

    def guard(self) -> bytes | None:
        """The file of the card's guard, exactly the bytes whose sha256 the card names; None for a card without one.

        Raises
        ------
        WeightsError
            If the file is absent, a link, or altered.
        """
        guard = self.card.guard
        if guard is None:
            return None
        return _named(self.folder, guard.file, guard.sha256, self.card.reference)

    def training_list(self) -> bytes | None:
        """The table of training files that the card names, exactly the bytes of its sha256; None for a card without.

        Serving does not need it, so an installed model may lack it.

        Raises
        ------
        WeightsError
            If the file is absent, a link, or altered.
        """
        files = self.card.training.files
        if files is None:
            return None
        return _named(self.folder, files.file, files.sha256, self.card.reference)


@dataclass(frozen=True, kw_only=True, slots=True)
class Inventory:
    """What is installed: models by reference (``name@version``), and what is wrong with those that are not."""

    models: dict[str, InstalledModel]
    faults: tuple[str, ...] = ()

    def latest(self, name: str) -> InstalledModel | None:
        """The highest version of `name`, or None."""
        found = [model for model in self.models.values() if model.card.identity.name == name]
        return max(found, key=lambda model: _version_key(model.card), default=None)

    def find(self, reference: str) -> InstalledModel | None:
        """The model of a reference ``name@version``, or the latest of a bare name; None when it is not installed."""
        return self.models.get(reference) or self.latest(reference)


def installed_models(roots: Sequence[Path] = (ZOO,)) -> Inventory:
    """All models below `roots`; a broken card is a fault in the inventory, not an end to the search.

    Weights are not read here: their digests are verified when they are loaded.
    """
    models: dict[str, InstalledModel] = {}
    faults: list[str] = []
    for root in roots:
        for path in sorted(root.glob(f"*/*/{_CARD}")):
            try:
                model = _read_model(path)
            except (CardError, WeightsError) as error:
                faults.append(str(error))
                continue
            if model.card.reference in models:
                faults.append(f"{path}: {model.card.reference} is already installed from another folder")
            else:
                models[model.card.reference] = model
    return Inventory(models=models, faults=tuple(faults))


def _read_model(path: Path) -> InstalledModel:
    card = read_card(path)
    folder = path.parent
    if (folder.parent.name, folder.name) != (card.identity.name, card.identity.version):
        raise CardError(f"{path}: the card is of {card.reference}, its folder says otherwise")
    files = [file.file for file in card.weights] + ([card.guard.file] if card.guard else [])
    for name in files:
        if not (folder / name).is_file():
            raise WeightsError(f"{path}: {name} is missing")
    return InstalledModel(card=card, folder=folder)


def _version_key(card: ModelCard) -> tuple[int, ...]:
    return tuple(int(part) for part in card.identity.version.split("."))


def _verified(folder: Path, file: WeightsFile, reference: str) -> bytes:
    data = _named(folder, file.file, file.sha256, reference)
    if file.runtime is Runtime.ONNX:
        try:
            external = has_external_data(data)
        except ValueError as error:
            raise WeightsError(f"{reference}: {file.file} is not an ONNX file: {error}") from error
        if external:
            raise WeightsError(f"{reference}: {file.file} keeps data in other files; all must be in one file")
    return data


def _named(folder: Path, name: str, sha256: str, reference: str) -> bytes:
    data = _read_regular(folder, name, reference)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise WeightsError(f"{reference}: {name} is not the file of the card: its sha256 differs")
    return data


def _read_regular(folder: Path, name: str, reference: str) -> bytes:
    """Read a regular file of `folder`; a link is refused, for it may lead anywhere."""
    if Path(name).name != name:
        raise WeightsError(f"{reference}: {name!r} is not a plain file name")
    try:
        descriptor = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise WeightsError(f"{reference}: {name} cannot be opened: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as opened:
        if os.fstat(opened.fileno()).st_size > _MAX_WEIGHTS_BYTES:
            raise WeightsError(f"{reference}: {name} is larger than {_MAX_WEIGHTS_BYTES} bytes")
        return opened.read()
