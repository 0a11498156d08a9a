"""The device a run asks for, and the precision of its forward pass."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from scarce_cli.config import STAGES, RunConfig
from scarce_cli.engine.host_memory import keep_memory
from scarce_cli.errors import OutOfMemory, ResourceError

Precision = Literal["bf16", "fp16", "fp32"]


def find_device(wanted: str, *, needs: str, remedy: str) -> torch.device:
    """The torch device, or a message at once.

    Args:
        needs: what the recipe needs, in words.
        remedy: what to do on a machine without CUDA.

    Raises:
        ResourceError: CUDA is wanted and not there.
    """
    if wanted == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    build = "built for CUDA" if torch.version.cuda else "built without CUDA"
    raise ResourceError(
        f"no CUDA device here (torch {torch.__version__}, {build}, found the CPU only); {needs}",
        remedy,
    )


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """The context of a forward pass: mixed precision, or nothing for fp32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(device.type, dtype=dtype)


class LossScaler(torch.amp.GradScaler):
    """A loss scaler for fp16 that tells of itself without being waited for; does nothing for other precisions."""

    def adapt(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """After the optimizer's step: take the next scale. Returns it, and whether it was lowered because gradients
        overflowed (0-d float64, on the device of ``like``); 1 and 0 when it does nothing."""
        if not self.is_enabled() or self._scale is None:
            return torch.ones_like(like, dtype=torch.float64), torch.zeros_like(like, dtype=torch.float64)
        before = self._scale.double()
        self.update()
        after = self._scale.double()
        return after.reshape(()), (after < before).double().reshape(())


def grad_scaler(device: torch.device, precision: Precision) -> LossScaler:
    """A loss scaler; does nothing unless the precision is fp16."""
    return LossScaler(device.type, enabled=precision == "fp16")


def configure(config: RunConfig, device: torch.device) -> None:
    """Global switches of torch and of the process, before anything is computed on ``device``."""
    if device.type != "cuda":
        keep_memory()
        return
    torch.set_float32_matmul_precision("high" if config.run.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = config.run.tf32
    torch.backends.cudnn.benchmark = not config.run.deterministic  # shapes never change: look for the best kernels
    if config.run.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


@contextlib.contextmanager
def memory_guard(config: RunConfig) -> Iterator[None]:
    """Turn running out of memory into a message with the batch to try; nothing is changed silently.

    Raises:
        OutOfMemory: the device's memory, or the CPU's, is used up.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"the memory is used up at batch {config.run.batch_size}, {config.data.size} px, {config.model.backbone}",
            " ".join(_smaller(config)),
        ) from None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device's memory, or the CPU's, is used up."""
    # On the CPU torch has no type of its own for it.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _smaller(config: RunConfig) -> Iterator[str]:
    yield "try again with"
    if config.run.batch_size > 2:
        yield f"--set run.batch_size={config.run.batch_size // 2}"
    if config.model.gradient_checkpointing < STAGES:
        yield f"--set model.gradient_checkpointing={STAGES}"
    if config.run.batch_size <= 2 and config.model.gradient_checkpointing == STAGES:
        yield "a smaller data.size"
    yield "(--plan measures what fits)"
