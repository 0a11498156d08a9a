"""The figures of gpu.py beside their targets, as a table and as JSON."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median
from typing import Any

from rich.table import Table

FASTER = {"moco": 1.4, "barlow": 2.0, "spark": 1.5, "dino": 1.4}  # than the plain loop
AUGMENTATION, WAITING = 0.05, 0.02  # of a step, at most
Runs = dict[str, list[dict[str, Any]]]  # by side, by rounds


def figures(runs: Runs, device: dict[str, Any]) -> dict[str, Any]:
    """All that is said of a method, from what its processes found; what is not known is left out."""
    sides = {name: _figures_of(found, device) for name, found in runs.items()}
    ours, plain = sides.get("ours", {}), sides.get("plain", {})
    whole = {"faster": _over(ours, plain, "images_per_s"), "model_faster": _over(ours, plain, "model_images_per_s")}
    compiled = _over(sides.get("compiled", {}), plain, "images_per_s")
    return {**sides, **{k: v for k, v in {**whole, "compiled_faster": compiled}.items() if v is not None}}


def _figures_of(runs: list[dict[str, Any]], device: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"status": _status(runs)}
    for name in ("images_per_s", "model_images_per_s"):
        if rates := [rate for run in runs for rate in run.get(name, [])]:
            found[name], found[f"{name}_spread"] = median(rates), [min(rates), max(rates)]
    for name in ("waiting", "seconds_to_first_step", "views_ms", "views_ms_with_host"):
        if values := [run[name] for run in runs if name in run]:
            found[name] = median(values)
    for name in ("allocated_gib", "reserved_gib", "device_gib"):
        if values := [run[name] for run in runs if name in run]:
            found[name] = max(values)
    for name in ("recipe", "batch", "flops", "bytes", "l4_on_paper_images_per_s", "whole_rounds_of_workers", "workers"):
        if values := [run[name] for run in runs if name in run]:
            found[name] = values[-1]
    return {**found, **_shares(found, device)}


def _status(runs: list[dict[str, Any]]) -> str:
    """Of all rounds; a fault is not hidden by a round that went well."""
    return next((run.get("status", "") for run in runs if run.get("status") != "ok"), "ok")


def _shares(found: dict[str, Any], device: dict[str, Any]) -> dict[str, float]:
    """Of a whole step: augmentation; of what the device can do: operations and bytes of a step without views."""
    shares = {}
    if "views_ms" in found and "images_per_s" in found:
        shares["augmentation"] = found["views_ms"] / 1e3 * found["images_per_s"] / found["batch"]
    if "flops" in found and "model_images_per_s" in found and "matrix_tflops" in device:
        steps_per_s = found["model_images_per_s"] / found["batch"]
        shares["of_matrix"] = found["flops"] * steps_per_s / 1e12 / device["matrix_tflops"]
        shares["of_memory"] = found["bytes"] * steps_per_s / 1e9 / device["copy_gb_per_s"]
    return shares


def _over(ours: dict[str, Any], plain: dict[str, Any], name: str) -> float | None:
    return ours[name] / plain[name] if name in ours and name in plain else None


def verdicts(method: str, found: dict[str, Any], memory: float) -> dict[str, bool]:
    """Which of the targets are reached, of those that were measured."""
    ours = found.get("ours", {})
    reached = {}
    if "faster" in found:
        reached["faster"] = found["faster"] >= FASTER[method]
    if "augmentation" in ours:
        reached["augmentation"] = ours["augmentation"] <= AUGMENTATION
    if "waiting" in ours:
        reached["waiting"] = ours["waiting"] < WAITING
    if "reserved_gib" in ours:
        reached["memory"] = ours["status"] == "ok" and ours["reserved_gib"] < memory
    return reached


def table(results: dict[str, Any], options: argparse.Namespace) -> Table:
    """A row for each figure, a column for each method."""
    device, methods = results["device"], results["methods"]
    found = {name: figures(runs, device) for name, runs in methods.items()}
    toy = "TOY SIZE, CPU: no measurement. " if options.toy else ""
    shown = Table(title=f"{toy}{_device(device)}", caption=_caption(options))
    shown.add_column("")
    for name in methods:
        shown.add_column(name, justify="right")
    for label, cell in _ROWS:
        shown.add_row(label, *(cell(found[name], name, options) for name in methods))
    return shown


def _device(device: dict[str, Any]) -> str:
    if "matrix_tflops" not in device:
        return str(device.get("name", "device not known"))
    reached = f"{device['matrix_tflops']:.3g} TFLOP/s (bf16 product), {device['copy_gb_per_s']:.4g} GB/s (copy)"
    return f"{device['name']}: {reached}; torch {device['torch']}, {device['cpus']} CPUs"


def _caption(options: argparse.Namespace) -> str:
    return f"preset {options.preset} {' '.join(options.settings)}, at most {options.memory:g} GiB; * target"


def _number(side: str, name: str, form: str = "{:.0f}", scale: float = 1.0) -> Callable[..., str]:
    def cell(found: dict[str, Any], method: str, options: argparse.Namespace) -> str:
        value = found.get(side, {}).get(name)
        return "-" if value is None else form.format(value * scale)

    return cell


def _spread(side: str, name: str) -> Callable[..., str]:
    def cell(found: dict[str, Any], method: str, options: argparse.Namespace) -> str:
        mine = found.get(side, {})
        if name not in mine:
            return str(mine.get("status", "-")) if side in found else "not run"
        low, high = mine[f"{name}_spread"]
        return f"{mine[name]:.0f} ({low:.0f} to {high:.0f})"

    return cell


def _target(name: str, text: Callable[[dict[str, Any], str, argparse.Namespace], str]) -> Callable[..., str]:
    def cell(found: dict[str, Any], method: str, options: argparse.Namespace) -> str:
        reached = verdicts(method, found, options.memory).get(name)
        if reached is None:
            return "-"
        verdict = "" if options.toy else ": reached" if reached else ": MISSED"
        return text(found, method, options) + verdict

    return cell


_ROWS: list[tuple[str, Callable[..., str]]] = [
    ("what", lambda found, method, options: found.get("ours", {}).get("recipe", "-")),
    ("ours, images/s", _spread("ours", "images_per_s")),
    ("plain, images/s", _spread("plain", "images_per_s")),
    ("* ours / plain", _target("faster", lambda f, m, o: f"{f['faster']:.2f} of {FASTER[m]:g}")),
    ("compiled, images/s", _spread("compiled", "images_per_s")),
    ("model only: ours, images/s", _spread("ours", "model_images_per_s")),
    ("model only: plain, images/s", _spread("plain", "model_images_per_s")),
    ("model only: ours / plain", lambda f, m, o: f"{f['model_faster']:.2f}" if "model_faster" in f else "-"),
    ("* augmentation", _target("augmentation", lambda f, m, o: f"{f['ours']['augmentation']:.1%} of 5 %")),
    ("* waiting, ours", _target("waiting", lambda f, m, o: f"{f['ours']['waiting']:.1%} of 2 %")),
    ("waiting, plain", _number("plain", "waiting", "{:.1%}")),
    ("* peak held, ours, GiB", _target("memory", lambda f, m, o: f"{f['ours']['reserved_gib']:.1f} of {o.memory:g}")),
    ("peak of tensors, ours, GiB", _number("ours", "allocated_gib", "{:.1f}")),
    ("peak held, plain, GiB", _number("plain", "reserved_gib", "{:.1f}")),
    ("GFLOP for a film: ours", lambda f, m, o: _each(f, "ours", "flops", 1e9)),
    ("MB for a film: ours", lambda f, m, o: _each(f, "ours", "bytes", 1e6)),
    ("MB for a film: plain", lambda f, m, o: _each(f, "plain", "bytes", 1e6)),
    ("of matrix, ours", _number("ours", "of_matrix", "{:.0%}")),
    ("of memory, ours", _number("ours", "of_memory", "{:.0%}")),
    ("of memory, plain", _number("plain", "of_memory", "{:.0%}")),
    ("L4 on paper: ours, images/s", _number("ours", "l4_on_paper_images_per_s")),
    ("L4 on paper: plain, images/s", _number("plain", "l4_on_paper_images_per_s")),
]


def _each(found: dict[str, Any], side: str, name: str, unit: float) -> str:
    mine = found.get(side, {})
    return f"{mine[name] / mine['batch'] / unit:.0f}" if name in mine else "-"


def as_json(results: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Figures, verdicts and everything they come from."""
    device = results["device"]
    methods = {}
    for name, runs in results["methods"].items():
        found = figures(runs, device)
        methods[name] = {"figures": found, "reached": verdicts(name, found, options.memory), "runs": runs}
    kept = ("preset", "settings", "memory", "minutes", "seconds", "plain_seconds", "rounds", "workers", "count", "toy")
    return {"device": device, "options": {name: getattr(options, name) for name in kept}, "methods": methods}
