"""09_lr_* and 05_dino_cosine_scheduler: learning rates, weight decay and whatever else follows a schedule."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scarce_cli.schedule import CONVENTIONS, cosine, milestone_lr, warmup_cosine
from tests.official.common import Data, Family, close

_END = 0.001  # share of the peak at the end, in the codes of Barlow Twins, VICReg and SparK


def _curve(name: str, steps: int, warmup: int, peak: float, final: float) -> NDArray[np.float64]:
    convention = CONVENTIONS[name]
    return np.array(
        [
            warmup_cosine(n, total_steps=steps, warmup_steps=warmup, peak=peak, final=final, convention=convention)
            for n in range(steps)
        ]
    )


def _moco(data: Data) -> None:
    epochs, base = int(data["epochs"]), float(data["base_lr"])
    if data["cosine"]:
        found = _curve("moco", epochs, 0, base, 0.0)
    else:
        milestones = [int(m) for m in np.asarray(data["milestones"])]
        found = np.array([milestone_lr(n, base=base, milestones=milestones) for n in range(epochs)])
    close(found, data, "lr_per_epoch")


def _per_step(data: Data, peak: float) -> NDArray[np.float64]:
    """The recipe of Barlow Twins, which VICReg took over."""
    each = int(data["niter_per_ep"])
    peak *= float(data["batch_size"]) / 256
    return _curve("barlow", int(data["epochs"]) * each, int(data["warmup_epochs"]) * each, peak, _END * peak)


def _barlow(data: Data) -> None:
    found = [_per_step(data, float(data[name])) for name in ("lr_weights", "lr_biases")]
    close(np.stack(found, axis=1), data, "lr_per_step_weights_biases")


def _spark(data: Data) -> None:
    steps, peak = int(data["max_iters"]), float(data["peak_lr"])
    rates = _curve("spark", steps, int(data["warmup_iters"]), peak, _END * peak)
    ends = {"start": float(data["wd"]), "end": float(data["wd_end"])}
    decays = [cosine(n, count=steps, reaches=CONVENTIONS["spark"].reaches, **ends) for n in range(steps)]
    close(np.stack([rates, np.array(decays)], axis=1), data, "lr_wd_per_step")


def _dino(data: Data) -> None:
    each = int(data["niter_per_ep"])
    steps, warmup = int(data["epochs"]) * each, int(data["warmup_epochs"]) * each
    found = [
        warmup_cosine(
            n,
            total_steps=steps,
            warmup_steps=warmup,
            peak=float(data["base_value"]),
            final=float(data["final_value"]),
            convention=CONVENTIONS["dino"],
            start=float(data["start_warmup_value"]),
        )
        for n in range(steps)
    ]
    close(found, data, "schedule")


def _inputs(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "input")


FAMILIES = {
    "09_lr_moco_per_epoch": Family({"lr_per_epoch": _moco}, _inputs("base_lr", "epochs", "cosine", "milestones")),
    "09_lr_barlow_per_step": Family(
        {"lr_per_step_weights_biases": _barlow},
        _inputs("epochs", "niter_per_ep", "batch_size", "lr_weights", "lr_biases", "warmup_epochs"),
    ),
    "09_lr_vicreg_per_step": Family(
        {"lr_per_step": lambda data: close(_per_step(data, float(data["base_lr"])), data, "lr_per_step")},
        _inputs("epochs", "niter_per_ep", "batch_size", "base_lr", "warmup_epochs"),
    ),
    "09_lr_wd_spark_per_step": Family(
        {"lr_wd_per_step": _spark}, _inputs("peak_lr", "wd", "wd_end", "warmup_iters", "max_iters")
    ),
    "05_dino_cosine_scheduler": Family(
        {"schedule": _dino},
        _inputs("base_value", "final_value", "epochs", "niter_per_ep", "warmup_epochs", "start_warmup_value"),
    ),
}
