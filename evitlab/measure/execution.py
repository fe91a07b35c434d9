"""How a network runs while it is measured: a copy in the precision, layout and mode that `Execution` asks for."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from evitlab.environment import linear_library
from evitlab.measure.inputs import copy_for_inference, is_folded, random_images
from evitlab.measurements.terms import Precision
from evitlab.models.attention import Attend
from evitlab.models.network import Network
from evitlab.problems import UserError
from evitlab.settings import Execution

MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
COMPILED_SIZES = 64  # sizes of images that a model is compiled for; past torch's own 8 it runs eagerly, unasked


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A copy of a model ready for inference, and what a record says about how it runs.

    Call it with images under `torch.inference_mode`. The first call at each size of images traces or compiles, so
    it belongs into the warm-up.
    """

    model: nn.Module
    """The copy itself, eager, for hooks and counts; it knows no autocast."""
    run: Callable[[Tensor], Any]
    device: torch.device
    precision: Precision
    memory_format: Literal["contiguous", "channels_last"]
    mode: Literal["eager", "compiled", "traced"]
    folded: bool
    """Whether BatchNorm was folded, or there was none to fold."""
    linear_library: str
    attention_path: str
    """How the network asks for attention; a compiler may still fuse what is explicit."""

    def __call__(self, images: Float[Tensor, "B C H W"]) -> Any:
        return self.run(images)

    @property
    def conditions(self) -> dict[str, Any]:
        """The fields of a record that say how it runs."""
        return {
            "precision": self.precision,
            "memory_format": self.memory_format,
            "mode": self.mode,
            "folded": self.folded,
            "linear_library": self.linear_library,
            "attention_path": self.attention_path,
        }

    def draw_images(self, *, batch_size: int, image_size: int | tuple[int, int], seed: int) -> Float[Tensor, "B 3 H W"]:
        """Random images on its device, in its memory format."""
        images = random_images(batch_size=batch_size, image_size=image_size, device=self.device, seed=seed)
        return images.to(memory_format=MEMORY_FORMATS[self.memory_format])


def prepare(model: nn.Module, *, execution: Execution, device: torch.device) -> Prepared:
    """A copy of the model that runs as asked; the model stays as it is.

    bf16 and fp16 are torch's autocast around fp32 weights, which are cast in every call. `linear: onednn` replaces
    every plain `nn.Linear`, but not what calls `F.linear` by itself. What the machine or torch cannot do is refused;
    that there is no working compiler shows in the first call.
    """
    _check(execution, device)
    copy = copy_for_inference(model, fold=execution.fold, device=device)
    copy = copy.to(memory_format=MEMORY_FORMATS[execution.memory_format])
    if execution.linear == "onednn":
        _use_onednn(copy)
    return Prepared(
        model=copy,
        run=_add_autocast(MODES[execution.mode](copy), execution.precision, device),
        device=device,
        precision=execution.precision,
        memory_format=execution.memory_format,
        mode=execution.mode,
        folded=execution.fold and is_folded(copy, model),
        linear_library=linear_library(device, execution.linear, precision=execution.precision),
        attention_path=find_attention_path(copy),
    )


def find_attention_path(model: nn.Module) -> str:
    """fused, explicit, both, or none; not known where a network that is not built here has no attention of ours."""
    paths = {module.path for module in model.modules() if isinstance(module, Attend)}
    if paths:
        return " and ".join(sorted(paths, reverse=True))
    return "none" if isinstance(model, Network) else "not known"


def _check(execution: Execution, device: torch.device) -> None:
    if execution.linear == "torch":
        return
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        raise UserError(f"linear must be torch except on a CPU with oneDNN, but got {execution.linear=} and {device=}")
    if execution.precision != "fp32":  # autocast does not know the operator, so it would run in fp32 unasked
        raise UserError(f"linear must be torch unless precision is fp32, but got {execution.precision=}")
    if execution.mode != "eager":  # tracer and compiler of torch both refuse the operator
        raise UserError(f"linear must be torch unless mode is eager, but got {execution.mode=}")


class OneDNNLinear(nn.Linear):
    """A linear layer by oneDNN: faster than MKL on AMD processors."""

    def forward(self, x: Float[Tensor, "*B inputs"]) -> Float[Tensor, "*B outputs"]:
        # The overload by name: matching it among several by its arguments costs more than many a layer.
        return torch.ops.mkldnn._linear_pointwise.default(x, self.weight, self.bias, "none", [], "")


def _use_onednn(model: nn.Module) -> None:
    """In place. Subclasses of `nn.Linear` compute something else and stay."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = OneDNNLinear  # keeps weights, hooks and every reference to the layer


def _add_autocast(run: Callable[[Tensor], Any], precision: str, device: torch.device) -> Callable[[Tensor], Any]:
    if precision == "fp32":
        return run
    dtype = AUTOCAST_DTYPES[precision]

    def run_in_autocast(images: Tensor) -> Any:
        with torch.autocast(device.type, dtype=dtype):
            return run(images)

    return run_in_autocast


def _compile(model: nn.Module) -> Callable[[Tensor], Any]:
    """Compiled for each size of images: shapes left open would make the second size another program."""
    from torch._dynamo.exc import BackendCompilerFailed  # takes seconds to load

    # Without isolation all networks of one class share the limit.
    compiled = torch.compile(  # type: ignore[call-overload]  # torch's overloads lack two of its arguments
        model, dynamic=False, isolate_recompiles=True, recompile_limit=COMPILED_SIZES
    )

    def run_compiled(images: Tensor) -> Any:
        try:
            return compiled(images)
        except BackendCompilerFailed as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"mode must be eager or traced where torch.compile fails, but got {reason=}") from error

    return run_compiled


def _trace(model: nn.Module) -> Callable[[Tensor], Any]:
    """Traced for each size of images: a trace keeps sizes as constants."""
    traces: dict[torch.Size, Callable[[Tensor], Any]] = {}

    def run_traced(images: Tensor) -> Any:
        if images.shape not in traces:
            traces[images.shape] = _trace_once(model, images)
        return traces[images.shape](images)

    return run_traced


def _trace_once(model: nn.Module, images: Tensor) -> Callable[[Tensor], Any]:
    # Outside of autocast, as in the official speed test: it acts on the operators when the trace runs.
    with warnings.catch_warnings(), torch.autocast(images.device.type, enabled=False):
        warnings.filterwarnings("ignore", r"`torch\.jit\.trace", FutureWarning)  # deprecated since 2.15
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # of sizes kept as constants
        return torch.jit.trace(model, images, check_trace=False)


MODES: dict[str, Callable[[nn.Module], Callable[[Tensor], Any]]] = {
    "eager": lambda model: model,
    "compiled": _compile,
    "traced": _trace,
}
