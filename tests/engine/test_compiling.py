"""run.compile: every stage and head is compiled whole, leaves no name in a checkpoint, and fails with a message."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from scarce_cli.engine.compiling import CompilerFailed, compiler_guard
from scarce_cli.engine.start import build_state
from scarce_cli.engine.step import Stepper
from scarce_cli.engine.views import Batches, ViewMaker
from scarce_cli.models import resnet

# The compiler looks at what flows between two networks, and torch warns of that.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")

SPARSE = ("method.masking=sparse", "method.patch=32", "data.size=64", "method.decoder_width=32")
CASES = {
    "barlow": ("model.gradient_checkpointing=2",),
    "moco": ("method.bn_splits=2", "method.shuffle_keys=true"),
    "dino": ("method.local_crops=1",),
    "spark": (*SPARSE, "model.gradient_checkpointing=1"),
}


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """Nothing compiled before, and nothing left behind."""
    _forget()
    yield
    _forget()


def _forget() -> None:
    resnet._compiled.cache_clear()
    torch.compiler.reset()


@pytest.fixture
def traced(fresh_compiler: None, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The operations of each graph that is compiled, by a compiler that computes them as they are; a network that it
    cannot see whole is an error."""
    graphs: list[list[str]] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        graphs.append([str(node.target) for node in graph.graph.nodes if node.op.startswith("call")])
        return graph.forward

    real, own = torch.compile, {"backend": backend, "fullgraph": True}
    monkeypatch.setattr(torch, "compile", lambda function, **given: real(function, **given, **own))
    return graphs


def _steps(job: Any) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    state, batches = build_state(job), Batches(job)
    stepper = Stepper(job, state, total_steps=batches.total, steps_per_epoch=batches.per_epoch)
    views = ViewMaker(job, state.method.view_specs(job.config.data.size, job.config.augment), batches)
    said = [stepper.take(step, views.take(step)).values for step in range(2)]
    return said, state.method.state_dict()


_LONG = pytest.mark.skipif("SCARCE_LONG" not in os.environ, reason="compiles for long: set SCARCE_LONG=1")


@_LONG
@pytest.mark.parametrize("method", list(CASES))
def test_compiled_steps_are_the_same_under_the_same_names(
    method: str, make_job: Callable, traced: list[list[str]], same: Any
) -> None:
    """What a method says, weights, teachers, queues and running statistics, to the bit; also with stages recomputed."""
    plain, compiled = (_steps(make_job(f"run.compile={on}", *CASES[method], method=method)) for on in ("false", "true"))
    assert plain[1].keys() == compiled[1].keys()
    assert same(plain, compiled)
    products = [sum("conv2d" in name or "linear" in name for name in graph) for graph in traced]
    assert len(products) >= 6  # the stem, four stages, a head
    assert sum(products) >= 20 + 2  # a ResNet-18 has 20 convolutions


@pytest.mark.parametrize("method", [pytest.param("barlow"), pytest.param("spark", marks=_LONG)])
def test_a_recomputed_stage_fits_what_the_compiler_kept(
    method: str, make_job: Callable, fresh_compiler: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the compiler's own cut between forward and backward pass, and no C compiler: the first loss, and running
    statistics, which are counted once."""
    real = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, **given: real(function, **given, backend="aot_eager_decomp_partition")
    )
    plain, compiled = (_steps(make_job(f"run.compile={on}", *CASES[method], method=method)) for on in ("false", "true"))
    assert plain[1].keys() == compiled[1].keys()
    torch.testing.assert_close(plain[0][0], compiled[0][0], rtol=1e-4, atol=1e-4)
    for name, value in plain[1].items():
        if "bn1.num_batches_tracked" in name or name == "encoder.bn1.running_mean":
            torch.testing.assert_close(value, compiled[1][name], rtol=1e-3, atol=1e-4, msg=name)


@_LONG
def test_what_the_compiler_makes_of_an_encoder_is_right(fresh_compiler: None) -> None:
    """In float64, in which rounding is small; the gradients of all weights."""
    encoders = [resnet.build_encoder("resnet18", seed=0).double() for _ in range(2)]
    encoders[1].compiled = True
    films, aims = torch.randn(4, 1, 64, 64, dtype=torch.float64), torch.randn(4, 512, dtype=torch.float64)
    for encoder in encoders:
        (encoder(films) * aims).sum().backward()
    for one, other in zip(*(encoder.parameters() for encoder in encoders), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-9)


def test_a_compiler_that_fails_is_named_with_the_way_on() -> None:
    from torch._inductor.exc import InductorError, InvalidCxxCompiler

    with pytest.raises(CompilerFailed) as error, compiler_guard():
        raise InductorError(InvalidCxxCompiler(), None)
    assert error.value.message.startswith(
        "run.compile is on, and torch could not compile the network here: No working C++ compiler"
    )
    assert "--set run.compile=false" in error.value.remedy
    with pytest.raises(CompilerFailed), compiler_guard():
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable")


def test_what_is_not_the_compilers_stays_what_it_is() -> None:
    from torch._inductor.exc import InductorError

    with pytest.raises(RuntimeError, match="another"), compiler_guard():
        raise RuntimeError("another")
    with pytest.raises(torch.OutOfMemoryError), compiler_guard():
        raise InductorError(torch.OutOfMemoryError("CUDA out of memory"), None)
