"""Training in several processes at once, as `torchrun` starts them: who this one is, and what all must agree on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from evitlab.problems import UserError


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process among those that train one model together."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and speaks to the user."""
        return self.rank == 0


def find_processes() -> Processes:
    """This process and its like; alone where no group has been joined."""
    if not dist.is_initialized():
        return Processes()
    return Processes(rank=dist.get_rank(), count=dist.get_world_size())


def local_device(device: str) -> str:
    """The device of this process: under torchrun, `cuda` is the GPU of its number on this machine."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" and "LOCAL_RANK" in os.environ else device


@contextmanager
def join_processes(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started, over gloo on CPUs and NCCL on GPUs; alone without torchrun."""
    if "RANK" not in os.environ:
        yield Processes()
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    except (RuntimeError, ValueError) as error:
        raise UserError(f"could not join the processes of torchrun: {str(error).splitlines()[0]}") from None
    try:
        yield find_processes()
    finally:
        dist.destroy_process_group()


def add_up(values: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def wait_for_all() -> None:
    """Go on once every process has come here."""
    if dist.is_initialized():
        dist.barrier()
