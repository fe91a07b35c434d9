"""What the operators of a forward pass do, call by call: module, bytes, multiply-accumulates, page faults.

A call is an operator as Python calls it, `aten::linear`; below it torch dispatches kernels, `aten::addmm` and views.
Kernels are seen by a dispatch mode, which makes torch choose some of them differently; the calls stay the same, so
they are what one pass shares with another.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode

from evitlab.measure.kernels import Kernel, measure_kernel

try:
    import resource
except ImportError:  # Windows does not count page faults for a process
    resource = None  # type: ignore[assignment]

MODULE, KERNEL = "module ", "kernel "  # labels in a profile: a path, a number
FAULT_PASSES = 3


@dataclass(frozen=True, kw_only=True)
class Call:
    """One operator as Python calls it, with what it does below."""

    operator: str
    module: str
    """Path of the innermost module that called it."""
    kernels: tuple[Kernel, ...]


def record_calls(run: Callable[[Tensor], Any], model: nn.Module, images: Tensor) -> list[Call]:
    """Every call of a forward pass in order; `run` calls the model, which should be warm.

    One pass with the profiler says which kernels belong to which call and module. Page faults are counted in others,
    as the profiler has its own.
    """
    recorder = _KernelRecorder()
    with profile(activities=[ProfilerActivity.CPU]) as profiler, torch.no_grad(), label_modules(model), recorder:
        run(images)
    faults = _count_faults(run, images, expected=len(recorder.kernels))
    kernels = [replace(kernel, page_faults=mean) for kernel, mean in zip(recorder.kernels, faults, strict=True)]
    calls = []
    for event, module in find_calls(profiler.events()):
        numbers = [int(below.name.removeprefix(KERNEL)) for below in walk(event) if below.name.startswith(KERNEL)]
        calls.append(Call(operator=event.name, module=module, kernels=tuple(kernels[number] for number in numbers)))
    return calls


def find_calls(events: Iterable[FunctionEvent]) -> Iterator[tuple[FunctionEvent, str]]:
    """The outermost operators of a profile in order, each with the path of its module where modules are labelled."""
    roots = [event for event in events if event.cpu_parent is None and event.device_type == DeviceType.CPU]
    for root in sorted(roots, key=lambda event: event.time_range.start):
        yield from _find_below(root, "")


def _find_below(event: FunctionEvent, module: str) -> Iterator[tuple[FunctionEvent, str]]:
    if is_operator(event):
        yield event, module
        return
    if event.name.startswith(MODULE):
        module = event.name.removeprefix(MODULE)
    for child in event.cpu_children:
        yield from _find_below(child, module)


def is_operator(event: FunctionEvent) -> bool:
    """Whether it is a call of torch's dispatcher, not a label or a call of an accelerator's library."""
    return re.fullmatch(r"\w+::\w+", event.name) is not None and not event.is_user_annotation


def walk(event: FunctionEvent) -> Iterator[FunctionEvent]:
    """An event and all below it."""
    yield event
    for child in event.cpu_children:
        yield from walk(child)


@contextmanager
def label_modules(model: nn.Module) -> Iterator[None]:
    """Label a profile with the path of each module of the model that is called.

    The hooks are torch's global ones: some modules of torch take another path when they have hooks of their own.
    """
    paths = {module: path for path, module in model.named_modules()}
    labels: list[record_function] = []

    def enter(module: nn.Module, inputs: Any) -> None:
        label = record_function(f"{MODULE}{paths[module]}" if module in paths else type(module).__name__)
        labels.append(label)
        label.__enter__()

    def leave(module: nn.Module, inputs: Any, outputs: Any) -> None:
        labels.pop().__exit__(None, None, None)

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def count_page_faults() -> int:
    """Of this process until now, without reading from disk; 0 where the system does not count them."""
    return 0 if resource is None else resource.getrusage(resource.RUSAGE_SELF).ru_minflt


class _KernelRecorder(TorchDispatchMode):
    """Measures each dispatched operator by its arguments, and labels it in the profile with its number."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[Kernel] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "profiler":  # the labels themselves
            return func(*args, **kwargs)
        with record_function(f"{KERNEL}{len(self.kernels)}"):
            outputs = func(*args, **kwargs)
        self.kernels.append(measure_kernel(func, args, kwargs, outputs))
        return outputs


class _FaultCounter(TorchDispatchMode):
    """Page faults inside each dispatched operator, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = count_page_faults()
        outputs = func(*args, **(kwargs or {}))
        self.faults.append(count_page_faults() - before)
        return outputs


def _count_faults(run: Callable[[Tensor], Any], images: Tensor, *, expected: int) -> list[float]:
    """Mean page faults of each kernel. The first pass is not counted: it warms the mode itself up."""
    if images.device.type != "cpu":
        return [0.0] * expected
    passes = []
    for _ in range(1 + FAULT_PASSES):
        with torch.no_grad(), _FaultCounter() as counter:
            run(images)
        if len(counter.faults) != expected:
            raise ValueError(
                f"the model must do the same in every pass, but one pass dispatched {expected} operators "
                f"and another {len(counter.faults)}"
            )
        passes.append(counter.faults)
    return [sum(faults) / FAULT_PASSES for faults in zip(*passes[1:], strict=True)]
