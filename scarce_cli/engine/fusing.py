"""``run.compile``: each network compiled by itself, so that what lies between two convolutions passes memory once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from scarce_cli.errors import ResourceError
from scarce_cli.methods.base import Method
from scarce_cli.models.resnet import Encoder

_VARIANTS = 64  # of one function's code: four stages, crops of two sizes, with and without gradient, recomputed
_COMPILERS = ("torch._dynamo", "torch._inductor")


def fuse(method: Method) -> None:
    """Have every network of a method compiled on its first call; in place, so the names of a checkpoint stay clean."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _VARIANTS)
    for child in method.children():
        if isinstance(child, Encoder):
            child.fused = True
        else:
            child.compile(dynamic=False)


@contextlib.contextmanager
def compiler_guard() -> Iterator[None]:
    """Turn a compiler that fails into a message.

    Raises:
        ResourceError: torch could not compile a network, most often because there is no C compiler.
    """
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(_COMPILERS):
            raise
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ResourceError(
            f"run.compile is on, and torch could not compile the network here: {reason}",
            "--set run.compile=false; or install a C++ compiler (g++) and try again",
        ) from error
