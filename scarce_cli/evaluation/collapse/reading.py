"""One moment of a run, as it is logged, kept in checkpoints and judged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scarce_cli.evaluation.collapse.measures import CollapseMetrics


@dataclass(frozen=True)
class Reading:
    """What was measured of the encoder, and what the method said since the reading before."""

    step: int  # steps done; 0: before the first
    progress: float  # of the planned run, 0 to 1
    features: CollapseMetrics | None  # of whole films in evaluation mode; None: not measured

    # Means over the steps since the reading before, of the loss and the method's scalars; {} where there are none.
    signals: Mapping[str, float] = field(default_factory=dict)

    def as_plain(self) -> dict[str, Any]:
        """For JSON or a checkpoint; a signal that is not finite is None."""
        return {
            "step": self.step,
            "progress": self.progress,
            "features": None if self.features is None else self.features.as_plain(),
            "signals": {name: value if math.isfinite(value) else None for name, value in self.signals.items()},
        }

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Reading:
        """What `as_plain` gave; a signal of None is NaN. Other keys are passed over.

        Raises TypeError, ValueError, KeyError or AttributeError for anything else.
        """
        step, progress, features = values["step"], float(values["progress"]), values["features"]
        if type(step) is not int:
            raise TypeError(f"step is {step!r}")
        if step < 0 or not 0 <= progress <= 1:
            raise ValueError(f"step is {step}, progress is {progress}")
        return cls(
            step,
            progress,
            None if features is None else CollapseMetrics.from_plain(features),
            {str(name): math.nan if value is None else float(value) for name, value in values["signals"].items()},
        )


def summed_up(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Signals of some steps, by name: means of what is finite; a name without any is left out, but for the loss (NaN).

    Of the loss also ``loss_std``, from step to step, and ``loss_bad``, the share of the steps where it was not finite.
    """
    found = {}
    for name, given in values.items():
        finite = [value for value in given if math.isfinite(value)]
        if finite:
            found[name] = math.fsum(finite) / len(finite)
        if name == "loss":
            spread = [(value - found["loss"]) ** 2 for value in finite]
            found |= {"loss_std": math.sqrt(math.fsum(spread) / len(spread))} if spread else {"loss": math.nan}
            found["loss_bad"] = 1 - len(finite) / len(given)
    return found
