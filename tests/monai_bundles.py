"""Real MONAI bundles for tests: networks that MONAI makes, configurations as its model zoo writes them."""

from __future__ import annotations

import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

Table = dict[str, Any]

UNET: Table = {
    "_target_": "UNet", "spatial_dims": 2, "in_channels": 1, "out_channels": 2, "channels": [4, 8], "strides": [2],
    "num_res_units": 1, "norm": "batch",
}  # fmt: skip
DENSENET: Table = {
    "_target_": "monai.networks.nets.DenseNet", "spatial_dims": 2, "in_channels": 1, "out_channels": 3,
    "init_features": 8, "growth_rate": 4, "block_config": [2, 2],
}  # fmt: skip
UNET_3D: Table = {**UNET, "spatial_dims": 3}


def transform(name: str, **arguments: object) -> Table:
    return {"_target_": name, "keys": "image", **arguments}


def inference(network: Table, *preprocessing: Table, **more: object) -> Table:
    """A configuration with the usual company of expressions that do not concern the network."""
    return {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "output_dir": "$@bundle_root + '/eval'",
        "datalist": "$list(sorted(glob.glob(@bundle_root + '/images/*.png')))",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": network,
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": list(preprocessing)},
        "dataset": {"_target_": "Dataset", "data": "$[{'image': i} for i in @datalist]", "transform": "@preprocessing"},
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            ],
        },
        "run": ["$@evaluator.run()"],
        **more,
    }


FILM = (
    transform("LoadImaged"),
    transform("EnsureChannelFirstd"),
    transform("Resized", spatial_size=[64, 96]),
    transform("ScaleIntensityd"),
    transform("EnsureTyped"),
)
CT = (
    transform("LoadImaged"),
    transform("EnsureChannelFirstd"),
    transform("Orientationd", axcodes="RAS"),
    transform("Spacingd", pixdim=[1.5, 1.5, 2.0], mode="bilinear"),
    transform("ScaleIntensityRanged", a_min=-57, a_max=164, b_min=0, b_max=1, clip=True),
    transform("EnsureTyped"),
)


def metadata(shape: list[int], channels: dict[str, str], **output: object) -> Table:
    return {
        "version": "0.2.0",
        "monai_version": "1.4.0",
        "description": "Finds something on films",
        "authors": "Another house",
        "data_source": "Films of nobody",
        "intended_use": "An example",
        "references": ["Nobody 2020"],
        "network_data_format": {
            "inputs": {
                "image": {"type": "image", "num_channels": 1, "spatial_shape": shape, "channel_def": {"0": "image"}}
            },
            "outputs": {
                "pred": {"type": "image", "format": "segmentation", "num_channels": len(channels),
                         "channel_def": channels, **output}
            },
        },
    }  # fmt: skip


SEGMENTATION = metadata([64, 96], {"0": "background", "1": "Lung opacity"})


def made_network(definition: Table) -> torch.nn.Module:
    """The network as MONAI itself makes it, always with the same weights."""
    from monai.bundle import ConfigParser

    torch.manual_seed(7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network: torch.nn.Module = ConfigParser({"network": definition}).get_parsed_content("network")
    for module in network.modules():
        if isinstance(module, (torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)):  # so that no axis is like another
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def write_bundle(folder: Path, config: Table, about: Table = SEGMENTATION, *, weights: object = None) -> Path:
    """A bundle's folder; `weights` is what `model.pt` holds, the network's own when None."""
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "metadata.json").write_text(json.dumps(about), encoding="utf-8")
    (folder / "configs" / "inference.json").write_text(json.dumps(config), encoding="utf-8")
    held = made_network(config["network_def"]).state_dict() if weights is None else weights
    torch.save(held, folder / "models" / "model.pt")
    return folder


def zipped(folder: Path, file: Path, *, top: str = "") -> Path:
    """The bundle as a zip, below a folder of its own if `top` names one."""
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, top + path.relative_to(folder).as_posix())
    return file


KNOWN: Table = {
    "identity": {
        "title": {"en": "Opacity", "ru": "Затемнение"}, "description": {"ru": "Находит"}, "licence": "Apache-2.0",
    },
    "labels": [
        {
            "key": "lung_opacity", "title": {"en": "Opacity", "ru": "Затемнение"},
            "finding": {"value": "128477000", "scheme": "SCT", "meaning": "Opacity"},
            "site": {"value": "39607008", "scheme": "SCT", "meaning": "Lung"},
            "lesion": {"threshold": 0.6, "chosen_by": "by hand"},
        }
    ],
    "intended_use": {
        "modalities": ["DX", "CR"], "accept_unknown_body_part": True, "accept_unknown_view": True,
        "statement": {"ru": "Пример"},
    },
    "training": {"licence": "unknown"},
    "evaluation": {"method": "not evaluated", "command": "none"},
    "limits": [{"en": "it was never evaluated", "ru": "оценка не проводилась"}],
}  # fmt: skip
