"""Weights on disk (config as JSON, tensors as safetensors: nothing that could execute) and from and to timm."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from evitlab.models.config import ModelConfig, config_from_dict
from evitlab.models.network import Network, build_model
from evitlab.models.zoo import make_config
from evitlab.records import digest

CONFIG_FILE, WEIGHTS_FILE = "config.json", "weights.safetensors"

# Ours to timm's, first to last; what is left between them has the same name in both.
_BLOCKS = [
    (r"\.0\.norm\.", ".norm1."),
    (r"\.1\.norm\.", ".norm2."),
    (r"\.1\.branch\.widen", ".mlp.fc1"),
    (r"\.1\.branch\.narrow", ".mlp.fc2"),
]
_RENAMES: dict[str, list[tuple[str, str]]] = {
    "deit": [
        (r"^stem\.", "patch_embed."),
        (r"^positions\.class_token", "cls_token"),
        (r"^positions\.embedding", "pos_embed"),
        (r"^stages\.0\.", ""),
        *_BLOCKS,
        (r"\.0\.branch\.", ".attn."),
        (r"^head\.norm", "norm"),
        (r"^head\.linear", "head"),
    ],
    "swin": [
        (r"^stem\.", "patch_embed."),
        (r"^stages\.", "layers."),
        (r"downsample\.0\.", "downsample."),
        *_BLOCKS,
        (r"\.0\.branch\.mixer\.bias\.table", ".attn.relative_position_bias_table"),
        (r"\.0\.branch\.mixer\.", ".attn."),
        (r"^head\.norm", "norm"),
        (r"^head\.linear", "head.fc"),
    ],
    "efficientvit": [
        *((rf"^stem\.{2 * i}\.", f"patch_embed.conv{i + 1}.") for i in range(4)),
        *((rf"(downsample\.){i}\.branch\.", rf"\g<1>res{1 + i // 3}.{i % 3}.m.") for i in (0, 1, 3, 4)),
        (r"downsample\.2\.", "downsample.patchmerge."),
        (r"patchmerge\.widen", "patchmerge.conv1"),
        (r"patchmerge\.depthwise", "patchmerge.conv2"),
        (r"patchmerge\.excite", "patchmerge.se"),
        (r"patchmerge\.narrow", "patchmerge.conv3"),
        (r"(blocks\.\d+)\.2\.branch\.mixer\.", r"\g<1>.mixer.m.attn."),
        (r"attn\.qkv\.", "attn.qkvs."),
        (r"attn\.query_convs\.", "attn.dws."),
        (r"attn\.bias\.table", "attn.attention_biases"),
        *((rf"(blocks\.\d+)\.{i}\.branch\.", rf"\g<1>.{('dw', 'ffn')[i % 3]}{i // 3}.m.") for i in (0, 1, 3, 4)),
        (r"\.m\.widen", ".m.pw1"),
        (r"\.m\.narrow", ".m.pw2"),
        (r"\.norm\.", ".bn."),
    ],
}


def save_model(model: Network, folder: Path | str) -> None:
    """Write a network's config and weights; a crash leaves the old pair or one that `load_model` refuses.

    Raises ValueError for weights that are not those of the config: fold BatchNorm after loading, not before saving.
    """
    state = model.state_dict()
    if problem := _find_mismatch(_shapes(state), _expected_shapes(model.config)):
        raise ValueError(f"the model must have the tensors that its config describes (is it folded?), but {problem}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config.to_dict()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    weights, text = folder / (WEIGHTS_FILE + ".part"), folder / (CONFIG_FILE + ".part")
    save_file(tensors, weights, metadata={"config": digest(config)})
    text.write_text(json.dumps(config, indent=1) + "\n")
    os.replace(weights, folder / WEIGHTS_FILE)
    os.replace(text, folder / CONFIG_FILE)


def save_state(model: nn.Module, folder: Path | str) -> None:
    """Write the weights of a network that is not ours, under their own names, for whoever can build it.

    timm reads them: `timm:NAME:checkpoint_path=FOLDER/weights.safetensors`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / (WEIGHTS_FILE + ".part")
    save_file({name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}, part)
    os.replace(part, folder / WEIGHTS_FILE)


def load_model(folder: Path | str) -> Network:
    """The network of `save_model`, in eval mode, its outputs bit-identical.

    Raises ValueError that names the file that is missing, broken, or does not fit the other.
    """
    config_path, weights_path = Path(folder) / CONFIG_FILE, Path(folder) / WEIGHTS_FILE
    try:
        config = config_from_dict(json.loads(config_path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ValueError(f"{config_path}: no saved model can be read here: {error}") from None
    try:
        with safe_open(weights_path, framework="pt") as file:
            saved_with = (file.metadata() or {}).get("config")
            # copies: kernels round differently on tensors that are not aligned as torch aligns them
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{weights_path}: no saved model can be read here: {error}") from None
    if saved_with != digest(config.to_dict()):
        raise ValueError(f"{weights_path}: these weights were saved with another {CONFIG_FILE} than {config_path}")
    if problem := _find_mismatch(_shapes(tensors), _expected_shapes(config)):
        raise ValueError(f"{weights_path}: must hold the tensors that {CONFIG_FILE} describes, but {problem}")
    model = build_model(config, seed=0)
    model.load_state_dict(tensors, assign=True)  # in the precision in which they were saved
    return model.eval()


Shapes = dict[str, tuple[int, ...]]


def _shapes(state: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _expected_shapes(config: ModelConfig) -> Shapes:
    with torch.device("meta"):
        return _shapes(build_model(config).state_dict())


def _find_mismatch(got: Shapes, expected: Shapes) -> str | None:
    """The first tensor in which two states differ, in words; None where they agree."""
    for name in sorted(got.keys() ^ expected.keys()):
        return f"{name} is missing" if name in expected else f"{name} is one too many"
    for name, shape in expected.items():
        if got[name] != shape:
            return f"{name} has shape {got[name]} and not {shape}"
    return None


def from_timm(timm_model: nn.Module, name: str, **knobs: Any) -> Network:
    """The zoo network `name` with a timm model's weights, its outputs and its number of classes, in eval mode.

    Give the knobs that the timm model was built with (`image_size`). Raises ValueError where the two do not match.
    """
    classifier = timm_model.get_classifier()  # type: ignore[operator]
    if not isinstance(classifier, nn.Linear):
        raise ValueError(f"the timm model must have one linear classifier, but got {type(classifier).__name__}")
    model = build_model(make_config(name, **{"num_classes": classifier.out_features, **knobs}), seed=0)
    model.load_state_dict(_from_timm_state(model, timm_model.state_dict()))
    return model.eval()


def to_timm(model: Network, timm_model: nn.Module) -> nn.Module:
    """Load our weights into a timm model of the same architecture; returns it, its mode unchanged.

    Raises ValueError where the two do not match, before anything is changed.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        timm_name, part = _translate(name, model.config)
        tensor = _turn(tensor, timm_name)
        state[timm_name] = torch.cat([state[timm_name], tensor]) if part in ("k", "v") else tensor
    if problem := _find_mismatch(_shapes(state), _shapes(timm_model.state_dict())):
        raise ValueError(f"the timm model must be of the same architecture, but of what it would get {problem}")
    mode = timm_model.training
    timm_model.load_state_dict(state)
    timm_model.train(not mode).train(mode)  # timm keeps attention biases in eval mode and drops them only here
    return timm_model


def _from_timm_state(model: Network, timm_state: dict[str, Tensor]) -> dict[str, Tensor]:
    state, used = {}, set()
    for name, ours in model.state_dict().items():
        timm_name, part = _translate(name, model.config)
        if timm_name not in timm_state:
            raise ValueError(f"the timm model must hold {timm_name}, needed for {name}, but it has no such tensor")
        used.add(timm_name)
        tensor = timm_state[timm_name]
        if part is not None:
            tensor = tensor.chunk(3)["qkv".index(part)]
        tensor = _turn(tensor, timm_name)
        if tensor.shape != ours.shape:
            raise ValueError(f"{timm_name} must have shape {tuple(ours.shape)}, but got {tuple(tensor.shape)}")
        state[name] = tensor
    if unused := sorted(set(timm_state) - used):
        raise ValueError(f"the timm model must be a plain {model.config.family}, but it also holds {', '.join(unused)}")
    return state


def _translate(name: str, config: ModelConfig) -> tuple[str, str | None]:
    """timm's name of a tensor, and which third of it ours is where timm fuses Q, K and V."""
    for pattern, replacement in _RENAMES[config.family]:
        name = re.sub(pattern, replacement, name)
    if fused := re.search(r"\.attn\.([qkv])\.", name):
        return name.replace(fused[0], ".attn.qkv."), fused[1]
    return name, None


def _turn(tensor: Tensor, timm_name: str) -> Tensor:
    """timm keeps Swin's bias tables as (offsets, heads), we as (heads, offsets)."""
    return tensor.mT if timm_name.endswith("relative_position_bias_table") else tensor
