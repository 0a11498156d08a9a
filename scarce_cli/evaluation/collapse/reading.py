"""One moment of a run, as it is logged, kept in checkpoints and judged."""

from __future__ import annotations

import math
from collections.abc import Mapping
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
