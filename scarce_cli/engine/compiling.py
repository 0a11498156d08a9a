"""``run.compile``: torch.compile for the networks of a method, encoders stage by stage.

Stage by stage, so that each stage can be recomputed or not, and a method that runs an encoder's stages by itself, over
patches, has them compiled as the others have.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from scarce_cli.engine.device import is_out_of_memory
from scarce_cli.errors import ResourceError
from scarce_cli.methods.base import Method
from scarce_cli.models.resnet import Encoder

_VARIANTS = 64  # of one function's code: four stages, crops of two sizes, with and without gradient, recomputed
_COMPILERS = ("torch._dynamo", "torch._inductor", "triton")


class CompilerFailed(ResourceError):
    """torch could not compile a network on this machine."""


def compile_networks(method: Method) -> None:
    """Have every network of a method compiled on its first call; in place, so the names of a checkpoint stay clean."""
    settings = torch._dynamo.config
    settings.recompile_limit = max(settings.recompile_limit, _VARIANTS)
    # Under DistributedDataParallel a stage would be cut at the limits of its buckets, and not when it is recomputed,
    # so that the two would not fit.
    settings.optimize_ddp = False
    for child in method.children():
        if isinstance(child, Encoder):
            child.compiled = True
        else:
            child.compile(dynamic=False)


def forget_compiled() -> None:
    """What was compiled of networks that are gone; it would count towards the limit of variants."""
    torch.compiler.reset()


@contextlib.contextmanager
def compiler_guard() -> Iterator[None]:
    """Turn a compiler that fails into a message; running out of memory meanwhile stays what it is.

    Raises:
        CompilerFailed: most often because there is no C compiler.
    """
    try:
        yield
    except RuntimeError as error:
        cause = getattr(error, "inner_exception", error)
        if is_out_of_memory(cause):
            raise cause from None
        if not type(error).__module__.startswith(_COMPILERS) and "C compiler" not in str(error):
            raise
        reason = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        raise CompilerFailed(
            f"run.compile is on, and torch could not compile the network here: {reason}",
            "--set run.compile=false; or install a C compiler (gcc and g++; for a GPU Python's headers too)",
        ) from error
