"""The network that is to be pruned: ours or timm's with loaded weights, or a small one that is trained first."""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import timm
from safetensors import SafetensorError
from timm.models import load_state_dict
from torch import nn

from evitlab.desk.desk import Desk, one_line_errors
from evitlab.desk.trainings import WEIGHTS, Asked, train_seeds
from evitlab.models.knobs import KnobError
from evitlab.models.named import NamedModel
from evitlab.models.network import Network
from evitlab.models.weights import CONFIG_FILE, WEIGHTS_FILE, from_timm, load_model
from evitlab.models.zoo import ZOO, make_config
from evitlab.options import split_knobs
from evitlab.problems import UserError, suggest
from evitlab.proxies import find_root
from evitlab.pruning_settings import STAND_INS
from evitlab.records import Record, digest
from evitlab.settings import TrainSettings
from evitlab.store import measured, write_atomically
from evitlab.train.data import classes_of

TIMM = {
    "deit_t": "deit_tiny_patch16_224",
    "swin_t": "swin_tiny_patch4_window7_224",
    **{name: name for name in ZOO if name.startswith("efficientvit_")},
}
"""timm's name of each network of the zoo."""
LABEL = "training.txt"
"""Beside weights that were trained here: what was asked of their training."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The network that a user wants pruned."""

    model: str
    """A name of the zoo or timm's name of the same, or the folder of a saved model."""
    knobs: Mapping[str, Any]
    weights: Path | None
    """Folder of a saved model, or a file of timm's."""
    pretrained: bool
    training: TrainSettings
    """Of a network that is trained first; whatever the weights, the images that all accuracies are on."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """A network to prune, in evaluation mode, and where it comes from."""

    named: NamedModel
    origin: str
    """In words."""
    init: Literal["as given", "xavier"]
    """How an untrained network like it begins."""
    records: list[Record] = field(default_factory=list)
    """Of a training made for it."""

    @property
    def network(self) -> Network:
        """The network itself."""
        assert isinstance(self.named.model, Network)
        return self.named.model


def find_start(desk: Desk, wanted: Wanted, *, seed: int, say: Callable[[str], None]) -> Start:
    """The network with its weights, of as many classes as the data; `say` is told what is trained for it.

    Raises UserError for a network that is not ours, and for weights that are not there, broken, or of another network.
    """
    name = choose_name(wanted)
    if wanted.weights is not None and wanted.pretrained:
        raise UserError("--weights and --pretrained are two sources of weights: give one of them")
    folder = find_folder(wanted)
    if folder is not None:
        start = _from_folder(folder, name, wanted)
    elif wanted.weights is not None:
        start = _from_file(wanted.weights, name, wanted)
    elif wanted.pretrained:
        start = _from_timm(name, wanted)
    else:
        return _train(desk, name, wanted, seed=seed, say=say)
    _compare_classes(start.origin, start.network.config.num_classes, wanted.training)
    return start


def choose_name(wanted: Wanted) -> str:
    """The network's name in the zoo, or the folder that it is saved in. UserError for a network that is not ours."""
    name = split_knobs(wanted.model)[0]
    if name.startswith("timm:"):
        plain = name.removeprefix("timm:").partition(".")[0]
        same = [ours for ours, theirs in TIMM.items() if theirs == plain]
        if not same:
            raise UserError(
                f"{wanted.model}: only networks whose layers evitlab knows can be pruned, of timm's "
                f"{', '.join(TIMM.values())}{suggest(plain, TIMM.values())}"
            )
        return same[0]
    if name in ZOO or Path(name).is_dir():
        return name
    if name.endswith(".py") or ".py:" in name:
        raise UserError(f"{wanted.model}: only networks whose layers evitlab knows can be pruned, not those of a file")
    raise UserError(
        f"unknown model {wanted.model!r}{suggest(name, ZOO)} (allowed: {', '.join(ZOO)}, timm's names of them, or the "
        "folder of a saved model)"
    )


def find_folder(wanted: Wanted) -> Path | None:
    """The folder of a saved model, if the weights are in one."""
    path = Path(split_knobs(wanted.model)[0]) if wanted.weights is None else wanted.weights
    if path.name == WEIGHTS_FILE and (path.parent / CONFIG_FILE).exists():
        return path.parent
    if wanted.weights is not None and not path.exists():
        raise UserError(f"--weights {path}: no such folder or file")
    return path if path.is_dir() else None


def _from_folder(folder: Path, name: str, wanted: Wanted) -> Start:
    knobs = {**wanted.knobs, **split_knobs(wanted.model)[1]}
    if knobs:
        raise UserError(f"{folder}: a saved model takes no knobs, its {CONFIG_FILE} says all, but got {knobs=}")
    try:
        network = load_model(folder)
    except ValueError as error:
        raise UserError(str(error)) from None
    if name in ZOO:
        _check_agreement(network, name, folder)
    named = _describe(wanted.model, network, _hash_file(folder / WEIGHTS_FILE), {})
    return Start(named=named, origin=f"{wanted.model} with the weights of {folder}", init=wanted.training.recipe.init)


def _check_agreement(network: Network, name: str, folder: Path) -> None:
    """A saved network has no name; what can be said is that it is another's."""
    config = network.config
    if config.family != ZOO[name].family:
        raise UserError(f"--weights {folder}: holds a network of the family {config.family}, not {name}")
    same = []
    for other in ZOO:
        try:
            published = make_config(other, image_size=list(config.image_size), num_classes=config.num_classes)
        except KnobError:  # no such image size there
            continue
        same += [other] if published == config else []
    if same and name not in same:
        raise UserError(f"--weights {folder}: holds {same[0]}, not {name}")


def _from_file(path: Path, name: str, wanted: Wanted) -> Start:
    try:
        state = load_state_dict(str(path), weights_only=True)
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"--weights {path}: cannot be read as a checkpoint: {_first_line(error)}") from None
    except Exception as error:  # torch refuses what could execute with an exception of pickle
        raise UserError(f"--weights {path}: cannot be read as plain weights: {_first_line(error)}") from None
    model = _make_timm(name, wanted)
    head = next(key for key, module in model.named_modules() if module is model.get_classifier())  # type: ignore[operator]
    if f"{head}.weight" not in state:
        raise UserError(f"--weights {path}: must hold the tensors of timm's {TIMM[name]}, but {head}.weight is missing")
    model = _make_timm(name, wanted, num_classes=len(state[f"{head}.weight"]))
    if problem := _find_mismatch(model, state):
        raise UserError(f"--weights {path}: must hold the tensors of timm's {TIMM[name]}, but {problem}")
    model.load_state_dict(state)
    return _convert(model, name, wanted, weights=_hash_file(path), origin=f"{name} with timm's checkpoint {path}")


def _from_timm(name: str, wanted: Wanted) -> Start:
    known = timm.get_pretrained_cfg(TIMM[name]) if name in TIMM else None
    if known is not None:
        _compare_classes(f"timm's {TIMM[name]}", known.num_classes, wanted.training)  # before it is downloaded
    model = _make_timm(name, wanted, pretrained=True)
    tag = getattr(model, "pretrained_cfg", {}).get("tag") or "default"
    state = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
    weights = hashlib.sha256(state).hexdigest()[:16]
    return _convert(model, name, wanted, weights=weights, origin=f"{name} with timm's pretrained weights ({tag})")


def _make_timm(name: str, wanted: Wanted, **options: Any) -> nn.Module:
    """timm's network of that name at the size asked for."""
    if name not in TIMM:
        raise UserError(f"timm's weights need a name of the zoo ({', '.join(TIMM)}), but got {name!r}")
    knobs = _knobs_of_timm(wanted)
    try:
        return timm.create_model(TIMM[name], **({"img_size": knobs["image_size"]} if knobs else {}), **options)
    except Exception as error:  # of timm, of its hub, of the network between
        what = "could not be downloaded" if options.get("pretrained") else "could not be built"
        hint = "; give a file with --weights" if options.get("pretrained") else ""
        raise UserError(f"timm's {TIMM[name]} {what}: {_first_line(error)}{hint}") from None


def _knobs_of_timm(wanted: Wanted) -> dict[str, Any]:
    knobs = {**wanted.knobs, **split_knobs(wanted.model)[1]}
    if others := sorted(set(knobs) - {"image_size"}):
        raise UserError(f"timm's weights take no knob but image_size, but got {', '.join(others)}")
    return knobs


def _convert(model: nn.Module, name: str, wanted: Wanted, *, weights: str, origin: str) -> Start:
    knobs = _knobs_of_timm(wanted)
    with one_line_errors():
        network = from_timm(model, name, **knobs)
    named = _describe(wanted.model, network, weights, knobs)
    return Start(named=named, origin=origin, init=wanted.training.recipe.init)


def _find_mismatch(model: nn.Module, state: Mapping[str, Any]) -> str | None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in sorted(expected.keys() ^ state.keys()):
        return f"{name} is missing" if name in expected else f"{name} is one too many"
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            return f"{name} has shape {tuple(state[name].shape)} and not {shape}"
    return None


def _compare_classes(origin: str, there: int, training: TrainSettings) -> None:
    needed = len(classes_of(training.data, root=find_root(training)))
    if there != needed:
        raise UserError(
            f"{origin}: tells {there} classes apart, but {training.data} has {needed}: choose the data that it was "
            "trained on with --data, or train it on these (evitlab train)"
        )


def _train(desk: Desk, name: str, wanted: Wanted, *, seed: int, say: Callable[[str], None]) -> Start:
    """A small network of that name, trained here; what has been trained so is not trained again."""
    knobs = {**STAND_INS[ZOO[name].family], **wanted.knobs, **split_knobs(wanted.model)[1]}
    training = replace(wanted.training, seeds=(seed,))
    asked = Asked(model=name, knobs=knobs, image_size=None, settings=training)
    folder = desk.folder / WEIGHTS / f"seed{seed}"
    label = digest([name, knobs, asked.plain, seed, desk.environment.conditions, desk.smoke])
    if not (folder / LABEL).exists() or (folder / LABEL).read_text().strip() != label:
        shutil.rmtree(folder, ignore_errors=True)  # those of another training
        shown = ", ".join(f"{knob} {value}" for knob, value in knobs.items())
        say(f"no weights given: training a small {name} on {training.data} first ({shown}; seed {seed})")
    (record,) = train_seeds(desk, asked)
    write_atomically(folder / LABEL, f"{label}\n")
    result = measured(record)
    network = load_model(folder)
    width, side = network.config.stages[0].width, network.config.image_size[0]
    origin = (
        f"a small {name} (width {width}, {side} px), trained here for {result.steps:,} steps of {result.batch_size} on "
        f"{result.train_images:,} images of {result.data} to a top-1 of {100 * result.top1:.1f}%"
    )
    say(f"pruning {origin}")
    named = _describe(wanted.model, network, _hash_file(folder / WEIGHTS_FILE), knobs)
    return Start(named=named, origin=origin, init=training.recipe.init, records=[record])


def _describe(label: str, network: Network, weights: str, knobs: Mapping[str, Any]) -> NamedModel:
    return NamedModel(
        label=label,
        model=network,
        config=network.config.to_dict(),
        knobs=dict(knobs),
        image_size=network.config.image_size,
        weights=weights,
    )


def _hash_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
