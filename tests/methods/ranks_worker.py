"""One of two processes that train the methods together, and one that trains them alone on the whole batch.

``python -m tests.methods.ranks_worker RANK FOLDER``, for ranks 0 and 1, writes FOLDER/RANK.json: for half of the cases
each, how far what the ranks had together is from what one process had. Everything is in float64.
"""

from __future__ import annotations

import copy
import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from scarce_cli.config import AugmentSettings
from scarce_cli.data.augment import View
from scarce_cli.engine.distributed import wrap
from scarce_cli.engine.statistics import Statistics
from scarce_cli.methods import method_class, settings_class
from scarce_cli.methods.base import Method, Progress
from scarce_cli.models import resnet
from scarce_cli.models.ranks import mean_over_ranks, own_share, rank, sum_over_ranks, whole_batch, world_size
from scarce_cli.models.resnet import build_encoder
from scarce_cli.models.sync_batch_norm import synchronise_batch_norms

WORLD, FILMS, STEPS = 2, 8, 2
Record = dict[str, dict[str, Tensor]]  # kind -> name -> value


@dataclass(frozen=True)
class Case:
    """A method, its settings, and how it is trained."""

    method: str
    settings: dict[str, Any]
    size: int = 32
    synchronised: bool = True
    checkpointing: bool = False  # of the encoder, by the ranks only: one process gives the same without


APART = "each rank by itself"  # not the same, on purpose
_MOCO = {"queue": 13, "dimension": 6, "key_momentum": 0.9}
_BARLOW = {"projector": (16, 12)}
_DINO = {"outputs": 12, "hidden": 16, "bottleneck": 8, "local_crops": 1, "local_size": 32, "local_scale": (0.1, 0.4)}
_DINO |= {"freeze_last_layer_epochs": 0.0}
_SPARSE = {"patch": 32, "decoder_width": 32, "mask_ratio": 0.5}

CASES = {
    "moco in 4 groups, variance": Case("moco", _MOCO | {"bn_splits": 4, "variance_weight": 1.0}),
    "moco in 2 groups, not shuffled": Case("moco", _MOCO | {"bn_splits": 2, "shuffle_keys": False}),
    "moco in one group, raw variance": Case(
        "moco", _MOCO | {"bn_splits": 1, "variance_weight": 1.0, "variance_on": "raw", "copy_buffers": True}
    ),
    "barlow": Case("barlow", _BARLOW),
    "barlow, published": Case("barlow", _BARLOW | {"standardise": "published"}, checkpointing=True),
    "spark, sparse": Case("spark", _SPARSE | {"drop_path": 0.6}, size=64),
    "spark, input": Case("spark", {"masking": "input", "patch": 8, "decoder_width": 8}, checkpointing=True),
    "dino, centre, crop by crop": Case("dino", _DINO | {"head_batch_norm": True, "crops_together": False}),
    "dino, sinkhorn, koleo": Case("dino", _DINO | {"centring": "sinkhorn", "koleo_weight": 0.5}, size=48),
    APART: Case("barlow", _BARLOW, synchronised=False),
}


def build(case: Case) -> Method:
    """Fixed by the case alone. The encoder has one block in each stage, which is all that a ResNet repeats."""
    with patch.dict(resnet._LAYOUT, {"resnet18": (BasicBlock, [1, 1, 1, 1])}):
        recomputed = case.checkpointing and world_size() > 1
        encoder = build_encoder("resnet18", seed=0, gradient_checkpointing=4 * recomputed)
    torch.manual_seed(1)
    settings = settings_class(case.method)(**case.settings)
    method = method_class(case.method).build(encoder, settings, case.size)
    method.check_batch(FILMS)
    if case.synchronised:
        synchronise_batch_norms(method)
    return method.double().train()


def views(method: Method, case: Case, step: int) -> list[View]:
    """This rank's share of a batch fixed by the step."""
    made, generator = [], torch.Generator().manual_seed(step)
    for spec in method.view_specs(case.size, AugmentSettings()):
        whole = torch.randn(FILMS, 1, spec.size, spec.size, generator=generator, dtype=torch.float64)
        made.append(View(own_share(whole), own_share(0.5 * whole)))
    return made


def train(case: Case) -> Record:
    """What the steps and the state at the end are, of all ranks together."""
    method = build(case)
    statistics, forward = Statistics(method), wrap(method)
    optimizer = torch.optim.SGD([p for _, p in method.trained_parameters()], lr=0.05, momentum=0.9)
    record: Record = {"loss": {}, "scalar": {}, "gradient": {}, "parameter": {}, "buffer": {}}
    for step in range(STEPS):
        progress, before = Progress(step, 10, 5), statistics.copy()
        output = forward(views(method, case, step), progress, torch.Generator().manual_seed(100 + step))
        optimizer.zero_grad(set_to_none=True)
        output.loss.backward()
        method.after_backward(progress)
        optimizer.step()
        method.after_step(progress, torch.tensor(True))
        statistics.settle(before, torch.tensor(True))
        record["loss"][str(step)] = mean_over_ranks(output.loss.detach())
        record["scalar"] |= {f"{name} {step}": mean_over_ranks(value) for name, value in output.scalars.items()}
    for name, parameter in method.trained_parameters():
        assert parameter.grad is not None
        record["gradient"][name] = parameter.grad
    record["parameter"] = {name: parameter.detach() for name, parameter in method.named_parameters()}
    record["buffer"] = dict(method.named_buffers())
    return record


def distances(found: Record, wanted: Record) -> dict[str, float]:
    """For each kind the largest difference of a tensor, in units of its largest entry.

    A millionth of the largest of all is added to that unit: before a BatchNorm a bias has no gradient but rounding.
    """
    result = {}
    for kind, tensors in wanted.items():
        assert found[kind].keys() == tensors.keys(), kind
        largest = max((float(tensor.abs().max()) for tensor in tensors.values()), default=0.0)
        units = {name: float(tensor.abs().max()) + 1e-6 * largest + 1e-30 for name, tensor in tensors.items()}
        differences = {name: float((found[kind][name] - tensor).abs().max()) for name, tensor in tensors.items()}
        result[kind] = max((differences[name] / units[name] for name in tensors), default=0.0)
    return result


def collectives() -> dict[str, float]:
    """How far the functions and the layers are from their formulas on the whole batch, with weights for each rank."""
    whole = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights_RMC = torch.randn(WORLD, 6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mine, own = weights_RMC[rank()], own_share(whole).clone().requires_grad_()
    gathered = whole_batch(own)
    (gathered * mine).sum().backward()
    found = {"whole_batch": gathered - whole, "its gradient": own.grad - own_share(weights_RMC.sum(0))}
    own.grad = None
    total = sum_over_ranks(own)
    (total * mine[:3]).sum().backward()
    found |= {"sum_over_ranks": total - whole.view(3, WORLD, 3).sum(1), "of it": own.grad - weights_RMC[:, :3].sum(0)}
    found |= {"mean_over_ranks": mean_over_ranks(own) - whole.view(3, WORLD, 3).mean(1)}
    return {name: float(difference.detach().abs().max()) for name, difference in found.items()}


def layer(norm: nn.Module, x_NCS: Tensor) -> dict[str, float]:
    """How far a layer over all ranks is from the plain one over the whole batch, for a loss of unequal rows."""
    weights = torch.randn(x_NCS.shape, generator=torch.Generator().manual_seed(2), dtype=x_NCS.dtype)
    plain, pair = norm.to(torch.promote_types(x_NCS.dtype, torch.float32)), nn.Sequential(copy.deepcopy(norm))
    synchronise_batch_norms(pair)
    whole, own = x_NCS.clone().requires_grad_(), own_share(x_NCS).clone().requires_grad_()
    wanted, found = plain(whole), pair(own)
    (wanted * weights).sum().backward()
    (found * own_share(weights)).sum().backward()
    assert found.dtype == x_NCS.dtype
    assert found.is_contiguous(memory_format=torch.channels_last) or not x_NCS.is_contiguous(
        memory_format=torch.channels_last
    )
    differences = {"output": found - own_share(wanted), "gradient": own.grad - own_share(whole.grad)}
    for (name, parameter), one in zip(pair[0].named_parameters(), plain.parameters(), strict=True):
        differences[name] = sum_over_ranks(parameter.grad) - one.grad
    differences |= {name: buffer - pair[0].get_buffer(name) for name, buffer in plain.named_buffers()}
    return {name: float(difference.detach().abs().max()) for name, difference in differences.items()}


def layers() -> dict[str, dict[str, float]]:
    """Rows without scale, and maps in either memory format and in half the bits; far from a mean of 0."""
    x = 3 * torch.randn(6, 5, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 10
    return {
        "rows, no scale": layer(nn.BatchNorm1d(5, affine=False), x[:, :, 0, 0]),
        "maps": layer(nn.BatchNorm2d(5), x),
        "maps, channels last": layer(nn.BatchNorm2d(5), x.to(memory_format=torch.channels_last)),
        "bfloat16": layer(nn.BatchNorm2d(5), x.bfloat16()),
    }


@contextmanager
def together(number: int, store: Path) -> Iterator[None]:
    """Inside there are two ranks."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=number, world_size=WORLD)
    try:
        yield
    finally:
        dist.destroy_process_group()


def main(number: int, folder: Path) -> None:
    """Two cases at a time: each process first trains one of them alone, then both train both together."""
    report, names = {}, list(CASES)
    for first in range(0, len(names), WORLD):
        pair = names[first : first + WORLD]
        mine = pair[number] if number < len(pair) else None
        alone = train(CASES[mine]) if mine else {}
        with together(number, folder / f"store{first}"):
            assert (world_size(), rank()) == (WORLD, number)
            for name in pair:
                record = train(CASES[name])
                if name == mine:
                    report[name] = distances(record, alone)
    with together(number, folder / "store"):
        own = {"collectives": collectives(), "layers": layers()}
    (folder / f"{number}.json").write_text(json.dumps({"cases": report, **own}))


if __name__ == "__main__":
    # The gradient of a 1 x 1 kernel has other strides than the kernel, which mean the same.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    torch.set_num_threads(1)
    main(int(sys.argv[1]), Path(sys.argv[2]))
