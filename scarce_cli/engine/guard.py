"""Counts the steps that could not be taken, and ends a run that takes none any more."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import Enum

from scarce_cli.engine.job import Job
from scarce_cli.engine.ledger import Entry
from scarce_cli.engine.saving import last_good
from scarce_cli.engine.state import TrainState
from scarce_cli.engine.step import LOSS, LOWERED, SCALE, TAKEN
from scarce_cli.errors import Diverged

_BAD_STEPS = 10  # non-finite losses in a row that end a run
_LEAST_SCALE = 1.0  # of the fp16 loss: below, gradients no longer fit whatever the scale


class Outcome(Enum):
    """What became of a step."""

    TAKEN = "taken"
    RESCALED = "rescaled"  # left out by fp16's scaler, which lowered its scale: usual on the first steps
    BAD = "bad"  # the loss or a gradient is not finite


def outcome(entry: Entry) -> Outcome:
    """What became of a step, from what it said."""
    if entry.values[TAKEN]:
        return Outcome.TAKEN
    lowered = entry.values[LOWERED] and math.isfinite(entry.values[LOSS])
    return Outcome.RESCALED if lowered else Outcome.BAD


class Guard:
    """Hears of every step in order; its counts belong to the state of the run."""

    def __init__(self, job: Job, state: TrainState, skipped: Callable[[int, str], Sequence[str]]) -> None:
        """``skipped(step, what)`` records the batch of a bad step (1 for the first) and returns its films' names."""
        self._job, self._state, self._skipped = job, state, skipped

    def hear(self, entry: Entry) -> str | None:
        """A warning for the user, if there is one.

        Raises:
            Diverged: ten bad steps in a row, or a scale of the fp16 loss that no gradient fits.
        """
        state, what = self._state, outcome(entry)
        if entry.values[SCALE] < _LEAST_SCALE:
            raise self._diverged(
                f"the scale of the fp16 loss fell below {_LEAST_SCALE:g}",
                entry,
                "go on with --set run.precision=bf16 --resume --override",
            )
        if what is Outcome.RESCALED:  # neither good nor bad: a scale that never fits ends the run by itself
            state.rescaled_steps += 1
            return None
        state.bad_in_a_row = 0 if what is Outcome.TAKEN else state.bad_in_a_row + 1
        if what is Outcome.TAKEN:
            return None
        state.bad_steps += 1
        return self._bad(entry)

    def _bad(self, entry: Entry) -> str:
        loss = entry.values[LOSS]
        why = "a gradient is not finite" if math.isfinite(loss) else f"the loss is {loss}"
        films = ", ".join(self._skipped(entry.step, why)[:3])
        if self._state.bad_in_a_row >= _BAD_STEPS:
            raise self._diverged(
                f"{why}, {_BAD_STEPS} steps in a row",
                entry,
                "lower optimizer.lr, or --set run.precision=fp32; to go on: --resume --override",
            )
        return f"step {entry.step}: {why}; skipped (films {films}, …)"

    def check_learned(self, total_steps: int) -> None:
        """At the end of the run: Diverged when no step was taken, so that untouched weights never pass for trained."""
        state = self._state
        if state.step == total_steps and state.bad_steps + state.rescaled_steps >= state.step:
            raise Diverged(
                f"none of the {state.step} steps could be taken: losses or gradients were not finite",
                "lower optimizer.lr, --set run.precision=fp32, or train for more epochs",
            )

    def _diverged(self, what: str, entry: Entry, remedy: str) -> Diverged:
        return Diverged(f"{what}, at step {entry.step}; {last_good(self._job.run)}", remedy)
