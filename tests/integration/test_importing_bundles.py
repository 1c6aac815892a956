"""MONAI bundles become models that say what MONAI says, and hostile ones become nothing at all."""

from __future__ import annotations

import json
import pickle
import tomllib
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirst, LoadImage, Orientation, Resize, ScaleIntensity
from PIL import Image

from dicom_node.cli import main
from inference.engine import Engine, StudyInput
from inference.loading import load_film
from inference.preprocess import prepare
from models.card import CardError, read_card
from models.inputs import ProjectionInput, VolumeInput
from models.outputs import HeatmapOutput, ProbabilityOutput
from models.registry import installed_models
from tests.monai_bundles import (
    CT,
    DENSENET,
    FILM,
    KNOWN,
    SEGMENTATION,
    UNET,
    UNET_3D,
    inference,
    made_network,
    metadata,
    transform,
    write_bundle,
    zipped,
)
from tests.pictures import film_file
from training.importing.bundle import ImportRefused
from training.importing.config import read_config
from training.importing.expressions import Component
from training.importing.monai import import_bundle
from training.toml import to_toml

NOISE = np.random.default_rng(4)


@pytest.fixture(scope="module")
def segmentation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that segments films, imported with a complete card."""
    folder = tmp_path_factory.mktemp("segmentation")
    bundle = write_bundle(folder / "films", inference(UNET, *FILM))
    return import_bundle(bundle, folder / "models", known=KNOWN).folder


def run(folder: Path, pictures: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"pictures": pictures.astype(np.float32)})[0])


def film(path: Path, rows: int, columns: int) -> Path:
    grey = NOISE.integers(0, 256, (rows // 8, columns // 8)).astype(np.uint8)
    grey[0, 0], grey[-1, -1] = 0, 255
    Image.fromarray(grey).resize((columns, rows), Image.Resampling.NEAREST).save(path)
    return path


def test_a_segmentation_of_films_says_what_monai_says(segmentation: Path, tmp_path: Path) -> None:
    card = read_card(segmentation / "card.toml")
    assert isinstance(card.input, ProjectionInput) and isinstance(card.output, HeatmapOutput)
    assert (card.input.height, card.input.width) == (96, 64)  # MONAI reads a film as columns by rows
    assert [(label.key, label.index) for label in card.labels] == [("lung_opacity", 1)]
    path = film(tmp_path / "film.png", 96, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI warns of readers that are not installed
        theirs = Compose([LoadImage(image_only=True), EnsureChannelFirst(), Resize([64, 96]), ScaleIntensity()])(
            str(path)
        )
    with torch.inference_mode():
        truth = made_network(UNET)(torch.as_tensor(np.asarray(theirs))[None])[0].numpy()
    ours = run(segmentation, prepare(load_film(path), card.input).tensor[None])[0]
    assert truth.std() > 0.01
    np.testing.assert_allclose(ours, truth.transpose(0, 2, 1), atol=2e-4)


def test_an_imported_model_is_served(segmentation: Path, tmp_path: Path) -> None:
    (model,) = installed_models([segmentation.parents[1]]).models.values()
    engine = Engine([model])
    try:
        assert engine.faults == {}
        study = StudyInput(study_uid="1.2", images=(film_file(tmp_path / "a.dcm", NOISE.integers(0, 255, (96, 64))),))
        analysis = engine.submit(model.card.reference, study).result(60)
        assert analysis.findings is not None
        assert {finding.label for finding in analysis.findings.findings} == {"lung_opacity"}
    finally:
        engine.close()


def test_a_classifier_says_what_monai_says(tmp_path: Path) -> None:
    about = metadata([64, 96], {"0": "normal", "1": "opacity", "2": "effusion"}, type="probabilities", format="classes")
    bundle = write_bundle(tmp_path / "sorter", inference(DENSENET, *FILM), about)
    made = import_bundle(zipped(bundle, tmp_path / "sorter.zip", top="sorter/"), tmp_path / "models")
    card = tomllib.loads((made.folder / "card.toml").read_text(encoding="utf-8"))
    assert [(label["key"], label["index"]) for label in card["labels"]] == [
        ("normal", 0),
        ("opacity", 1),
        ("effusion", 2),
    ]
    assert card["output"] == {"kind": ProbabilityOutput().kind, "probability": "prediction", "activation": "softmax"}
    pictures = NOISE.random((2, 1, 96, 64), dtype=np.float32)
    with torch.inference_mode():
        truth = made_network(DENSENET)(torch.from_numpy(pictures.transpose(0, 1, 3, 2))).numpy()
    np.testing.assert_allclose(run(made.folder, pictures), truth, atol=2e-4)


def test_a_segmentation_of_volumes_is_turned_as_monai_turns_it(tmp_path: Path) -> None:
    about = metadata([32, 24, 16], {"0": "background", "1": "Lung opacity"})
    window = {"_target_": "SlidingWindowInferer", "roi_size": [32, 24, 16], "overlap": 0.5}
    bundle = write_bundle(tmp_path / "spleen", inference(UNET_3D, *CT, inferer=window), about)
    made = import_bundle(bundle, tmp_path / "models", known=KNOWN)
    card = read_card(made.folder / "card.toml")
    assert isinstance(card.input, VolumeInput)
    assert (card.input.tile, card.input.spacing_mm) == ((16, 24, 32), (2.0, 1.5, 1.5))
    assert (card.input.low_hu, card.input.high_hu, card.input.overlap) == (-57, 164, 0.5)
    slices = NOISE.random((16, 24, 32), dtype=np.float32)  # to the head, to the back, to the left
    patient = MetaTensor(torch.from_numpy(slices.transpose(2, 1, 0).copy())[None], affine=np.diag([-1.5, -1.5, 2.0, 1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI warns of a default that will change
        turn = Orientation("RAS")
    with torch.inference_mode():
        given = made_network(UNET_3D)(turn(patient)[None])[0]
    truth = np.asarray(
        turn.inverse(MetaTensor(given, meta=turn(patient).meta, applied_operations=turn(patient).applied_operations))
    )
    np.testing.assert_allclose(run(made.folder, slices[None, None])[0], truth.transpose(0, 3, 2, 1), atol=2e-4)


def test_a_card_with_blanks_is_written_and_refused_until_they_are_filled(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "films", inference(UNET, *FILM))
    parts = tmp_path / "parts.toml"
    result = CliRunner().invoke(main, ["models", "import", str(bundle), "--into", str(tmp_path / "models")])
    assert result.exit_code == 0, result.output
    assert "labels.0.finding.value" in result.output
    with pytest.raises(CardError, match=r"labels\.0\.finding\.value"):
        read_card(tmp_path / "models" / "films" / "0.2.0" / "card.toml")
    parts.write_text(to_toml(KNOWN), encoding="utf-8")
    arguments = ["models", "import", str(bundle), "--into", str(tmp_path / "models"), "--version", "0.2.1"]
    result = CliRunner().invoke(main, [*arguments, "--card", str(parts)])
    assert result.exit_code == 0, result.output
    assert "to fill in" not in result.output
    assert read_card(tmp_path / "models" / "films" / "0.2.1" / "card.toml").reference == "films@0.2.1"
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 1
    assert "is there already" in again.output


def test_a_yaml_configuration_is_read_as_a_json_one(tmp_path: Path) -> None:
    import yaml

    config = inference({**UNET, "out_channels": "$1 + 1", "channels": ["@base", "$@base * 2"]}, *FILM, base=4)
    found = [
        read_config(name, text.encode()).value("network_def")
        for name, text in (("a.json", json.dumps(config)), ("a.yaml", yaml.safe_dump(config)))
    ]
    assert [(one.target, one.arguments) for one in found if isinstance(one, Component)] == [
        ("UNet", {key: value for key, value in UNET.items() if key != "_target_"})
    ] * 2


# hostile and foreign bundles -----------------------------------------------------------------------------------------


def refused(bundle: Path, tmp_path: Path, said: str) -> None:
    """The import is refused with these words, and leaves nothing behind."""
    models = tmp_path / "models"
    with pytest.raises(ImportRefused, match=said):
        import_bundle(bundle, models)
    assert list(models.rglob("*")) == []


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("$import os", "it is no expression"),
        ("$__import__('os').system('touch TRACE')", "attributes of values are not read"),
        ('$exec(\'open("TRACE", "w")\')', "exec is not among the functions"),
        ("$[open('TRACE', 'w') for _ in [1]]", "ListComp is not among what is read"),
        ("$(lambda: open('TRACE', 'w'))()", "attributes of values|not among"),
        ("$().__class__.__base__.__subclasses__()", "attributes of values"),
        ("$@bundle_root.__class__", "attributes of values"),
        ("$'%s' % @bundle_root", "text is not formatted"),
        ("$f'{open(1)}'", "JoinedStr is not among"),
        ("$10 ** 10 ** 10", "power is too large|cannot be worked out|number is too large"),
        ("$[0] * 1000000000", "the list is too long"),
        ("$os.system('touch TRACE')", "os.system is not among the functions"),
        ("$monai.bundle.load('x')", "monai.bundle.load is not among the functions"),
        ("%other.json::value", "takes text from another place"),
        ("@nothing", "there is no nothing"),
        ("@network_def", "refer to each other in a circle"),
    ],
)
def test_an_expression_outside_the_list_is_refused_with_its_place(
    expression: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = inference({**UNET, "in_channels": expression}, *FILM)
    bundle = write_bundle(tmp_path / "films", config, weights={"w": torch.zeros(1)})
    refused(bundle, tmp_path, said)
    assert not (tmp_path / "TRACE").exists()


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ({"_target_": "os.system", "command": "touch TRACE"}, "os.system is not among the networks"),
        ({"_target_": "scripts.network.Mine"}, "scripts.network.Mine is not among the networks"),
        ({"_target_": "monai.networks.nets.unet.os.system"}, "is not among the networks"),
        ({"_target_": "monai.apps.UNet"}, "monai.apps.UNet is not among the networks"),
        ({**UNET, "_mode_": "callable"}, "_mode_ 'callable'"),
        ({**UNET, "nonsense": 1}, "MONAI does not make UNet"),
        ({**UNET, "act": {"_target_": "subprocess.run", "args": "x"}}, "subprocess.run as an argument"),
        (
            {"_target_": "EfficientNetBN", "model_name": "efficientnet-b0", "pretrained": True, "spatial_dims": 2},
            "download",
        ),
    ],
)
def test_only_networks_on_the_list_are_made(network: dict[str, Any], said: str, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "films", inference(network, *FILM), weights={"w": torch.zeros(1)})
    refused(bundle, tmp_path, said)


class Harmful:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.trace,)


def test_a_pickled_object_in_the_weights_is_never_made(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    bundle = write_bundle(tmp_path / "films", inference(UNET, *FILM), weights={"model": Harmful(trace)})
    refused(bundle, tmp_path, "pickled objects and TorchScript are programs")
    (bundle / "models" / "model.pt").write_bytes(pickle.dumps(Harmful(trace)))
    refused(bundle, tmp_path, "pickled objects and TorchScript are programs")
    assert not trace.exists()


def test_torchscript_is_refused(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "films", inference(UNET, *FILM))
    script = bundle / "models" / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls it deprecated; bundles hold it all the same
        torch.jit.save(torch.jit.trace(torch.nn.Identity(), torch.zeros(1)), script)  # type: ignore[no-untyped-call]
    refused(bundle, tmp_path, "TorchScript are programs")
    script.rename(bundle / "models" / "model.ts")
    refused(bundle, tmp_path, "only a file of weights is imported")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    other = made_network({**UNET, "channels": [4, 8, 16], "strides": [2, 2]}).state_dict()
    bundle = write_bundle(tmp_path / "films", inference(UNET, *FILM), weights=other)
    refused(bundle, tmp_path, "is not of the network|other shapes")


@pytest.mark.parametrize("name", ["../outside.json", "/etc/outside", "films/../../outside", "..\\outside"])
def test_a_zip_whose_paths_lead_out_is_refused(name: str, tmp_path: Path) -> None:
    packed = zipped(write_bundle(tmp_path / "films", inference(UNET, *FILM)), tmp_path / "films.zip")
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(name, "x")
    refused(packed, tmp_path, "leads out of it")


def test_links_are_refused_in_folders_and_in_zips(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "films", inference(UNET, *FILM))
    packed = zipped(bundle, tmp_path / "films.zip")
    link = zipfile.ZipInfo("models/more.pt")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    refused(packed, tmp_path, "the link 'models/more.pt'")
    weights = bundle / "models" / "model.pt"
    weights.rename(tmp_path / "elsewhere.pt")
    weights.symlink_to(tmp_path / "elsewhere.pt")
    refused(bundle, tmp_path, "model.pt is a link")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"preprocessing": [*FILM, transform("Rotate90d", spatial_axes=[0, 1])]},
            "the transform Rotate90d is not understood",
        ),
        ({"preprocessing": [*FILM, transform("scripts.Mine")]}, "the transform scripts.Mine is not understood"),
        ({"preprocessing": [one for one in FILM if one["_target_"] != "Resized"]}, "no Resized says"),
        ({"preprocessing": FILM[:3]}, "nothing says how grey values are scaled"),
        ({"preprocessing": [*FILM, transform("NormalizeIntensityd", nonzero=True)]}, "only a fixed subtrahend"),
        ({"preprocessing": [*FILM, transform("ScaleIntensityd", fancy=1)]}, "has fancy, which is not understood"),
        ({"postprocessing": {"_target_": "Compose", "transforms": []}}, "no Activationsd says"),
        (
            {"inferer": {"_target_": "SlidingWindowInferer", "roi_size": [64, 64]}},
            "a window that slides over a picture",
        ),
        ({"inferer": {"_target_": "scripts.Inferer"}}, "only SimpleInferer and SlidingWindowInferer"),
    ],
)
def test_what_a_card_cannot_say_is_refused_by_name(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    config = inference(UNET, *FILM)
    if isinstance(change.get("preprocessing"), (list, tuple)):
        change = {"preprocessing": {"_target_": "Compose", "transforms": list(change["preprocessing"])}}
    refused(write_bundle(tmp_path / "films", config | change), tmp_path, said)


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"version": "0.2.0"}, "network_data_format has no inputs"),
        (SEGMENTATION | {"version": "0.2"}, "is no version of three numbers"),
        (metadata([64, 96], {"0": "background"}), "channel_def names no channel"),
        (metadata([64, 96], {"5": "far"}), "the network gives 2"),
        (metadata([64, 96], {}, channel_def=None), "no channel_def"),
    ],
)
def test_metadata_that_leave_the_output_open_are_refused(about: dict[str, Any], said: str, tmp_path: Path) -> None:
    refused(write_bundle(tmp_path / "films", inference(UNET, *FILM), about), tmp_path, said)


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no zip")
    refused(tmp_path / "empty", tmp_path, r"no configs/metadata.json")
    refused(tmp_path / "text", tmp_path, "neither a folder nor a zip")
