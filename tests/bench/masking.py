"""SparK's two maskings beside each other: speed of a training step, and what it keeps for the backward pass.

    python tests/bench/masking.py --backbone resnet18 --size 96 --batch 32 --input-width 32 --sparse-width 128

Both sides take steps in turn in one process; the figure is the ratio of the medians of CPU time, which other work on
the machine disturbs least. Memory is what autograd holds on to after the forward pass, without weights, by film.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from scarce_cli.data.augment import View
from scarce_cli.methods.base import Progress
from scarce_cli.methods.settings import SparKSettings
from scarce_cli.methods.spark import SparK
from scarce_cli.models.resnet import build_encoder

START = Progress(0, 1, 1)


def main() -> None:
    """Print a line for each masking, then the ratios."""
    options = _options()
    torch.set_num_threads(options.threads)
    methods = {name: _build(name, options) for name in ("input", "sparse")}
    images = torch.randn(options.batch, 1, options.size, options.size)
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for turn in range(options.rounds + 1):
        for name, method in methods.items():
            start = time.process_time()
            _step(method, images)
            if turn:  # the first one warms up
                seconds[name].append(time.process_time() - start)
    kept = {name: _kept(method, images) / options.batch / 2**20 for name, method in methods.items()}
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name in methods:
        rate = options.batch / medians[name]
        print(f"{name:6}  {rate:6.1f} images per CPU second  {kept[name]:7.2f} MiB kept for a film")
    faster = [a / b for a, b in zip(seconds["input"], seconds["sparse"], strict=True)]
    print(
        f"sparse is {medians['input'] / medians['sparse']:.2f} times as fast ({min(faster):.2f} to {max(faster):.2f}) "
        f"and keeps {kept['sparse'] / kept['input']:.2f} of the memory"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", choices=("resnet18", "resnet50"), default="resnet18")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--input-width", type=int, default=32, help="decoder_width of masking: input")
    parser.add_argument("--sparse-width", type=int, default=128, help="decoder_width of masking: sparse")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def _build(masking: str, options: argparse.Namespace) -> SparK:
    width = options.input_width if masking == "input" else options.sparse_width
    settings = SparKSettings(masking=masking, decoder_width=width)
    torch.manual_seed(0)
    method = SparK.build(build_encoder(options.backbone, seed=0), settings, options.size)
    return method.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload,no-any-return]


def _step(method: SparK, images: torch.Tensor) -> None:
    method.zero_grad(set_to_none=True)
    method([View(images, images)], START, torch.Generator().manual_seed(0)).loss.backward()


def _kept(method: SparK, images: torch.Tensor) -> int:
    """Bytes that the backward pass needs, each storage counted once, weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in method.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = method([View(images, images)], START, torch.Generator().manual_seed(0))
    assert output.loss.requires_grad  # holds the graph, and with it what was counted
    return sum(kept.values())


if __name__ == "__main__":
    main()
