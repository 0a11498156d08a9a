"""Several GPUs, on one machine or more, as torchrun starts them: one process each, one of which writes.

Every process makes the views of its own share of a batch; `scarce_cli.models.ranks` has what the losses need of the
others. ``run.batch_size`` is the whole batch, so a recipe does not change with the number of GPUs.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from scarce_cli.errors import ResourceError
from scarce_cli.methods.base import Method
from scarce_cli.models.ranks import rank, world_size

_PATIENCE = timedelta(minutes=15)  # that one rank waits for another: the first may be copying films into memory


def is_writer() -> bool:
    """Whether this process is the one that writes files and speaks to the user."""
    return rank() == 0


@contextlib.contextmanager
def ranks(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that torchrun started, if it did, and leave them at the end; gives this process's device.

    Raises:
        ResourceError: they cannot be reached, or one of them is gone.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        torch.cuda.set_device(device)
    with _understood("the other processes cannot be reached"):
        _join(device)
    try:
        with _understood("another process of the run is gone"), warnings.catch_warnings():
            # Of kernels of one pixel, whose strides may be written in two ways.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            yield device
    finally:
        dist.destroy_process_group()


def _join(device: torch.device) -> None:
    """Meet the others where torchrun's variables say.

    The meeting place outlives a restart, and with it the addresses of those who died: each attempt has names of its
    own there.
    """
    store, number, world = next(rendezvous("env://", timeout=_PATIENCE))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    place = dist.PrefixStore(f"scarce-{attempt}", store)  # type: ignore[attr-defined]  # it does export it
    if device.type == "cuda":
        dist.init_process_group("nccl", store=place, rank=number, world_size=world, timeout=_PATIENCE, device_id=device)
    else:
        dist.init_process_group("gloo", store=place, rank=number, world_size=world, timeout=_PATIENCE)


@contextlib.contextmanager
def _understood(what: str) -> Iterator[None]:
    """Turn what torch says of the connection into a message."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        text = str(error)
        if isinstance(error, dist.DistError) or any(word in text for word in ("gloo", "Gloo", "NCCL", "MASTER_")):
            first = (text.splitlines() or [type(error).__name__])[0]
            raise ResourceError(
                f"{what}: {first}", "look at its messages; start all again by torchrun with --resume"
            ) from error
        raise


def wrap(method: Method) -> Callable[..., Any]:
    """What to call for a forward pass: with several ranks, gradients become their mean while going backward.

    Running statistics are averaged by the engine after each step, so they are not sent around before it.
    """
    if world_size() == 1:
        return method
    with warnings.catch_warnings():  # newer torch has another name for broadcast_buffers, older only this one
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return DistributedDataParallel(method, broadcast_buffers=False, gradient_as_bucket_view=True)


def as_the_writer(decision: bool) -> bool:
    """What the writer decided, on all ranks."""
    if world_size() == 1:
        return decision
    decided = [decision]
    dist.broadcast_object_list(decided, src=0)
    return decided[0]


@contextlib.contextmanager
def first_the_writer() -> Iterator[None]:
    """What the block does to files, the writer does first, and the others when it is done."""
    if not is_writer():
        wait_for_all()
    yield
    if is_writer():
        wait_for_all()


def wait_for_all() -> None:
    """Until every rank is here."""
    if world_size() > 1:
        dist.barrier()
