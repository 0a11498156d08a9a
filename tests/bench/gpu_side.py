"""One process of gpu.py: measures one side of one method and writes what it found, after every part of it."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from count import best, ceilings, count, on_paper, wait
from plain_loader import share
from sides import Ours, Plain, Recipe, Side, load_recipe, open_films, specs_of

GIB = 2**30
_WARM_UP = 5  # whole steps of our side
_WINDOW = 1.0  # seconds of steps, at least, between two looks at the clock
_BATCHES = 2000  # of the plain loader's epoch: more than are taken


def measure(part: str, method: str, options: argparse.Namespace) -> None:
    """``part``: ceilings, ours, compiled or plain. Writes ``options.out`` (JSON)."""
    device = torch.device("cpu") if options.toy else torch.device("cuda", 0)
    out = Output(options.out)
    try:
        if device.type == "cuda":
            _limit_memory(device, options.memory)
        if part == "ceilings":
            found = ceilings(device, side=256 if options.toy else 8192, seconds=options.seconds / 8)
            out.add(_device(device), found, {"status": "ok"})
        else:
            _measure_side(part, method, options, device, out)
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
        traceback.print_exc(file=sys.stderr)
        out.add({"error": str(error).splitlines()[0]}, _memory(device))
        if out.found["status"] != "ok":  # else whole steps fit, and only what is measured after them did not
            out.add({"status": "out of memory"})


class Output:
    """What was found, on disk as soon as it is known."""

    def __init__(self, path: Path) -> None:
        self.path, self.found = path, {"status": ""}

    def add(self, *parts: dict[str, Any]) -> None:
        for part in parts:
            self.found.update(part)
        self.path.write_text(json.dumps(self.found))


def _limit_memory(device: torch.device, gib: float) -> None:
    """As on a card with ``gib``. What CUDA itself takes beside torch's memory is not in it: see ``device_gib``."""
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, gib * GIB / total), device)


def _measure_side(part: str, method: str, options: argparse.Namespace, device: torch.device, out: Output) -> None:
    recipe = _recipe(part, method, options)
    out.add({"recipe": str(recipe), "batch": recipe.config.run.batch_size})
    started = time.perf_counter()
    side = _plain(recipe, options, device, out) if part == "plain" else Ours(recipe, open_films(options.films), device)
    side.begin()
    side.step()
    wait(device)
    out.add({"seconds_to_first_step": time.perf_counter() - started})
    if isinstance(side, Plain):
        _whole_plain(side, options, out)
    else:
        _whole_ours(side, options, out)
    out.add(_memory(device), {"status": "ok"})
    rates = _windows(side.model_step, side, options.seconds / 2)
    out.add({"model_images_per_s": rates, "losses": side.losses[-3:]})
    if isinstance(side, Ours):
        out.add(_views_alone(side, options))
    if part != "compiled":
        counted = count(side.model_step)
        out.add(counted, {"l4_on_paper_images_per_s": on_paper(counted, side.batch)})


def _plain(recipe: Recipe, options: argparse.Namespace, device: torch.device, out: Output) -> Plain:
    shared, specs = share(open_films(options.films).images), specs_of(recipe)
    side = Plain(recipe, shared, specs, device, workers=options.workers, batches=_BATCHES)
    out.add({"workers": side.loader.num_workers, "batches_ready": side.loader.prefetch_factor})
    return side


def _recipe(part: str, method: str, options: argparse.Namespace) -> Recipe:
    settings = [*options.settings, *(["run.compile=true"] if part == "compiled" else [])]
    return load_recipe(method, options.preset, settings, published=["run.device=cpu"] if options.toy else [])


def _whole_ours(side: Ours, options: argparse.Namespace, out: Output) -> None:
    """Rates by windows after a warm-up, and the share of waiting."""
    for _ in range(1 if options.toy else _WARM_UP):
        side.step()
    wait(side.device)
    side.waited()
    rates = _windows(side.step, side, options.seconds)
    out.add({"images_per_s": rates, "waiting": side.waited()})


def _whole_plain(side: Plain, options: argparse.Namespace, out: Output) -> None:
    """The workers begin together, so their batches come in bursts: one from each is left out, then whole rounds of
    them are timed, as many as there is time for."""
    each, begun = max(1, side.loader.num_workers), time.perf_counter()
    _steps(side, each - 1, begun + options.plain_seconds / 2)
    wait(side.device)
    side.waited()
    started, taken = time.perf_counter(), 0
    while taken == 0 or (taken % each == 0 and time.perf_counter() < started + options.seconds):
        taken += _steps(side, each, begun + options.plain_seconds)
    wait(side.device)
    rate = taken * side.batch / (time.perf_counter() - started)
    out.add({"images_per_s": [rate], "whole_rounds_of_workers": taken % each == 0, "waiting": side.waited()})


def _steps(side: Side, count: int, ends: float) -> int:
    """Take ``count`` whole steps, at least two if there are two; fewer when the time is up. Returns how many."""
    for taken in range(count):
        if taken >= 2 and time.perf_counter() > ends:
            return taken
        side.step()
    return count


def _windows(step: Callable[[], None], side: Side, seconds: float) -> list[float]:
    """Films per second in windows of whole steps, after two that are not timed."""
    for _ in range(2):
        step()
    wait(side.device)
    started = time.perf_counter()
    step()
    wait(side.device)
    steps = max(1, round(_WINDOW / (time.perf_counter() - started))) if seconds else 1
    rates, ends = [], time.perf_counter() + seconds
    while not rates or time.perf_counter() < ends:
        started = time.perf_counter()
        for _ in range(steps):
            step()
        wait(side.device)
        rates.append(steps * side.batch / (time.perf_counter() - started))
    return rates


def _views_alone(side: Ours, options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of one batch of views. Behind a long row of products, so that the device finds all of its work there
    and none of the host's time between its kernels is counted, unless making views waits for the device."""
    n = 64 if options.toy else 8192
    a = torch.randn(n, n, device=side.device)
    times = []
    for _ in range(3):
        wait(side.device)
        for _ in range(0 if options.toy else 40):
            torch.mm(a, a)
        start = side.clock.now()
        side.make_views()
        end = side.clock.now()
        wait(side.device)
        times.append(side.clock.ms(start, end))
    host = best(side.make_views, side.device, 0.0)
    return {"views_ms": min(times), "views_ms_with_host": 1e3 * host}


def _memory(device: torch.device) -> dict[str, float]:
    """GiB: most that tensors took, most that torch held, and what the whole device has in use now."""
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    return {
        "allocated_gib": torch.cuda.max_memory_allocated(device) / GIB,
        "reserved_gib": torch.cuda.max_memory_reserved(device) / GIB,
        "device_gib": (total - free) / GIB,
    }


def _out_of_memory(error: BaseException) -> bool:
    # cuDNN and cuBLAS have errors of their own for it.
    words = ("out of memory", "ALLOC_FAILED", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)


def _device(device: torch.device) -> dict[str, Any]:
    """What this machine is."""
    found: dict[str, Any] = {"name": platform.processor() or "CPU", "torch": torch.__version__, "cpus": os.cpu_count()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "name": properties.name,
            "memory_gib": properties.total_memory / GIB,
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return found
