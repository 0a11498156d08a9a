"""The benches run at toy size, and the plain loops they compare with compute the same as this program."""

from __future__ import annotations

import copy
import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scarce_cli.methods.base import Progress
from scarce_cli.methods.spark import draw_visible

BENCH = Path(__file__).parent
_SEED = 3
CASES = (  # a method, its settings, and how exact the loss is in float64
    ("moco", ("method.shuffle_keys=false", "method.variance_weight=1.0", "method.variance_on=raw"), 1e-9),
    ("barlow", (), 1e-9),
    ("barlow", ("method.standardise=published",), 1e-9),
    ("dino", ("method.crops_together=false",), 1e-9),
    ("dino", ("method.centring=sinkhorn", "method.local_crops=1"), 1e-5),  # the plain Sinkhorn is in float32
    ("spark", ("method.masking=input", "method.drop_path=0.0"), 1e-9),
)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Import one of the benches' modules as its script would; what torch was set to is put back."""
    threads, benchmark, known = torch.get_num_threads(), torch.backends.cudnn.benchmark, set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCH))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = benchmark
    for name in set(sys.modules) - known:
        if str(BENCH) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def run(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    """The script's main with these options."""
    monkeypatch.setattr(sys, "argv", [str(module.__file__), *options])
    module.main()


@pytest.mark.skipif("SCARCE_LONG" not in os.environ, reason="half a minute: set SCARCE_LONG=1")
def test_throughput_at_toy_size(
    bench: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(bench("throughput"), monkeypatch, "--toy", "--cases", "spark", "--precisions", "bf16", "--json", "found.json")
    found = json.loads(Path("found.json").read_text())
    parts = [(row["part"], row["case"]) for row in found["rows"]]
    steps = [("step", "spark"), ("model", "spark")]
    assert parts == [*steps, ("views", "kernel 9"), ("views", "kernel 23"), ("moving average", "ResNet-50")]
    assert all(rate > 0 for row in found["rows"] for rate in (*row["films_per_s"], *row["plain_films_per_s"]))
    assert "moving average" in capsys.readouterr().out


def test_collapse_at_toy_size(bench: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """All ways find the same, but near collapse, where only float64 finds what is true."""
    module = bench("collapse")
    x = module.draw(60, 40)
    found = {name: way(x) for name, way in module.WAYS.items()}
    near, true = module.near_collapse(300, 40)
    for name, (rank, cosine) in found.items():
        assert rank == pytest.approx(found["ours, float64"][0], rel=1e-4), name
        assert cosine == pytest.approx(found["ours, float64"][1], abs=0.02), name
        assert (abs(module.WAYS[name](near)[0] / true - 1) < 1e-3) == (name == "ours, float64"), name
    run(module, monkeypatch, "--films", "20", "--dimensions", "10", "--rounds", "2")
    assert len(capsys.readouterr().out.splitlines()) == 2 + 2 * len(found)


def test_probe_at_toy_size(bench: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Both sides agree, and the gate shuts on another C and on other scores."""
    module = bench("probe")
    toy = ("--findings", "1", "--initialisations", "1", "--dimensions", "48", "--shots", "1", "4", "--draws")

    def code(draws: str) -> object:
        with pytest.raises(SystemExit) as ended:
            run(module, monkeypatch, *toy, draws)
        return ended.value.code

    assert code("2") == 0
    said = capsys.readouterr().out
    assert said.startswith("4 support sets, 48 features")
    assert "ours: the same C in 100.0%, AUC at most 0.0e+00 apart" in said
    right = module.ours
    monkeypatch.setattr(module, "ours", lambda block: (right(block)[0], 10 * right(block)[1]))
    assert code("1") == 1
    monkeypatch.setattr(module, "ours", lambda block: (-right(block)[0], right(block)[1]))
    assert code("1") == 1


@pytest.mark.slow
def test_gpu_bench_checks_itself_where_there_is_no_gpu_and_a_lack_of_memory_is_a_result(
    bench: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def no_memory(recipe: Any, *arguments: Any) -> Any:
        if recipe.method == "barlow":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return build(recipe, *arguments)

    gpu, side = bench("gpu"), bench("gpu_side")
    build = side._plain
    monkeypatch.setattr(side, "_plain", no_memory)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run(gpu, monkeypatch, "--methods", "moco", "barlow", "--json", "found.json")
    found = json.loads(Path("found.json").read_text())
    assert found["options"]["toy"] is True
    assert found["device"]["matrix_tflops"] > 0  # measured by a process of its own
    moco, barlow = (found["methods"][name]["figures"] for name in ("moco", "barlow"))
    assert moco["ours"]["status"] == moco["plain"]["status"] == barlow["ours"]["status"] == "ok"
    assert moco["ours"]["flops"] < moco["plain"]["flops"]  # one channel in the stem
    assert moco["faster"] == moco["ours"]["images_per_s"] / moco["plain"]["images_per_s"] > 0
    assert barlow["plain"]["status"] == "out of memory"
    assert "faster" not in barlow
    said = capfd.readouterr().out
    assert "No CUDA device here" in said
    assert "TOY SIZE, CPU: no measurement" in said


@pytest.mark.parametrize(("method", "settings", "exact"), CASES)
def test_the_plain_loop_computes_the_same_loss_and_gradient(
    method: str, settings: tuple[str, ...], exact: float, bench: Any
) -> None:
    """Given the same weights (a third of the stem's for each of three equal channels), views and masks."""
    sides, plain = bench("sides"), bench("plain")
    recipe = sides.load_recipe(method, "smoke", settings)
    size = recipe.config.data.size
    torch.manual_seed(0)
    ours = sides.method_class(method).build(sides.build_encoder("resnet18", seed=0), recipe.settings, size)
    theirs = plain.METHODS[method](plain.Backbone("resnet18"), recipe.settings, size)
    if method == "spark":  # a patch's variance is unbiased over all its channels: three equal ones change it
        theirs.encoder.net.conv1, theirs.decoder.out = copy.deepcopy((ours.encoder.conv1, ours.decoder.out))
        theirs.draw_hidden = lambda images: 1.0 - ours._pixels(_visible(ours, len(images)))
    ours, theirs = ours.double().train(), theirs.double().train()
    encoder = _take_weights(ours, theirs)
    images = [torch.randn(4, 1, spec.size, spec.size, dtype=torch.float64) for spec in sides.specs_of(recipe)]
    generator = torch.Generator().manual_seed(_SEED)
    loss = ours([sides.View(image, image) for image in images], Progress(0, 100, 10), generator).loss
    same = theirs.loss([image.expand(-1, encoder.conv1.in_channels, -1, -1) for image in images])
    torch.testing.assert_close(same, loss, rtol=exact, atol=0.0)
    loss.backward()
    same.backward()
    trained = dict(encoder.named_parameters())
    for name, mine in ours.encoder.named_parameters():
        gradient = trained[name].grad
        torch.testing.assert_close(
            gradient, mine.grad.expand_as(gradient), rtol=10 * exact, atol=exact * mine.grad.abs().max()
        )


def _take_weights(ours: Any, theirs: Any) -> nn.Module:
    """Give the plain method our weights and buffers, its slow network too. Returns its ResNet."""
    fast = theirs.query if hasattr(theirs, "query") else theirs
    encoder = fast[0].net if isinstance(fast, nn.Sequential) else fast.encoder.net
    _fill(encoder, ours.encoder)
    if isinstance(fast, nn.Sequential):
        _fill(fast[1], ours.projector)
        _fill(theirs.key, fast)
        theirs.queue_DK.copy_(ours.queue_DK)
    for name in ("projector", "head", "decoder"):
        if name in dict(theirs.named_children()):
            _fill(getattr(theirs, name), getattr(ours, name))
    if hasattr(theirs, "teacher"):
        _fill(theirs.teacher, theirs.encoder)
        _fill(theirs.teacher_head, theirs.head)
    return encoder


def _fill(target: nn.Module, source: nn.Module) -> None:
    """Load ``source``; a stem of one channel into one of three equal ones."""
    likes = target.state_dict()
    target.load_state_dict(
        {
            name: value if value.shape == likes[name].shape else value.expand_as(likes[name]) / likes[name].shape[1]
            for name, value in source.state_dict().items()
        }
    )


def _visible(ours: Any, films: int) -> Tensor:
    """The patches that ours shows with a generator of this seed."""
    return draw_visible(films, ours.side, ours.settings.mask_ratio, torch.Generator().manual_seed(_SEED))
