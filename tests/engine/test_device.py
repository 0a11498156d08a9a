"""Device, precision and memory: found, or said what is missing and what to do."""

from __future__ import annotations

import pytest
import torch

from scarce_cli.config import RunConfig
from scarce_cli.engine.device import autocast, find_device, grad_scaler, memory_guard
from scarce_cli.errors import ResourceError
from scarce_cli.presets import load_preset, validate

CPU = torch.device("cpu")


def _config(*overrides: str) -> RunConfig:
    return validate(load_preset("l4", "spark", overrides), RunConfig)


def test_the_cpu_is_always_there() -> None:
    assert find_device("cpu", needs="x", remedy="y") == CPU


def test_without_cuda_the_message_says_what_was_found_needed_and_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ResourceError) as error:
        find_device("cuda", needs="the recipe l4 needs an NVIDIA GPU with 24 GiB", remedy="scarce --preset cpu")
    assert error.value.message.startswith(f"no CUDA device here (torch {torch.__version__}, built ")
    assert "found the CPU only" in error.value.message
    assert error.value.message.endswith("the recipe l4 needs an NVIDIA GPU with 24 GiB")
    assert error.value.remedy == "scarce --preset cpu"


def test_the_current_cuda_device_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert find_device("cuda", needs="", remedy="") == torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)]
)
def test_the_forward_pass_has_the_precision_asked_for(precision: str, dtype: torch.dtype) -> None:
    layer = torch.nn.Linear(4, 4)
    with autocast(CPU, precision):
        out = layer(torch.ones(2, 4))
    assert out.dtype == dtype
    assert layer.weight.dtype == torch.float32
    assert grad_scaler(CPU, precision).is_enabled() == (precision == "fp16")


def _guarded(error: BaseException, *overrides: str) -> ResourceError:
    with pytest.raises(ResourceError) as caught, memory_guard(_config(*overrides)):
        raise error
    return caught.value


def test_out_of_memory_names_the_batch_to_try() -> None:
    error = _guarded(torch.OutOfMemoryError("CUDA out of memory"))
    assert error.message == "the memory is used up at batch 256, 224 px, resnet50"
    assert error.remedy == (
        "try again with --set run.batch_size=128 --set model.gradient_checkpointing=4 (--plan measures what fits)"
    )
    error = _guarded(MemoryError(), "model.gradient_checkpointing=0", "run.batch_size=2")
    assert error.remedy == "try again with --set model.gradient_checkpointing=4 (--plan measures what fits)"
    error = _guarded(MemoryError(), "model.gradient_checkpointing=4", "run.batch_size=2")
    assert error.remedy == "try again with a smaller data.size (--plan measures what fits)"


def test_the_cpus_memory_is_recognised_and_other_errors_pass() -> None:
    with pytest.raises(ResourceError, match="batch 256"), memory_guard(_config()):
        torch.empty(2**55)
    for error in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("x")):
        with pytest.raises(type(error)), memory_guard(_config()):
            raise error
