"""What the readings of a run mean: healthy, suspicious or collapsed, by which failure, on what evidence."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from scarce_cli.evaluation.collapse import feature_rules, signal_rules
from scarce_cli.evaluation.collapse.course import Course, Finding, State
from scarce_cli.evaluation.collapse.measures import CollapseMetrics
from scarce_cli.evaluation.collapse.reading import Reading
from scarce_cli.evaluation.collapse.thresholds import limit
from scarce_cli.vitals import Expectations, Failure


@dataclass(frozen=True)
class Verdict:
    """A state, the failure unless healthy, and sentences with the numbers; those of the failure come first."""

    state: State
    failure: Failure | None
    evidence: tuple[str, ...]

    def as_plain(self) -> dict[str, Any]:
        """For JSON."""
        failure = None if self.failure is None else str(self.failure)
        return {"state": self.state, "failure": failure, "evidence": list(self.evidence)}


@dataclass(frozen=True)
class Rule:
    """A look at a course, and the line (a progress) before which it says nothing; None: it always speaks."""

    look: Callable[[Course], Finding | None]
    since: str | None = "settled"


# Of findings that are as bad, the first counts: the more it says of the cause, the earlier it stands.
RULES = (
    Rule(signal_rules.diverged, None),
    Rule(signal_rules.teacher, "learning"),
    Rule(feature_rules.complete),
    Rule(signal_rules.leakage),
    Rule(feature_rules.dimensional),
    Rule(feature_rules.fading),
    Rule(signal_rules.not_learning, "learning"),
    Rule(feature_rules.shrinking),
)


def judge(readings: Sequence[Reading], random: CollapseMetrics | None, expected: Expectations) -> Verdict:
    """Judge the last reading in the light of those before it.

    Pure: the same readings get the same verdict. A value that is missing or not finite counts for nothing, except
    that of the loss, which then has diverged.

    Args:
        readings: of one run, oldest first; one of step 0 is the random start.
        random: the features of a random network; by default those of step 0.
        expected: what the method says of its scalars and of its loss.
    """
    start = next((reading.features for reading in readings if reading.step == 0), None)
    trained = tuple(reading for reading in readings if reading.step > 0)
    if not trained:
        return Verdict("healthy", None, ("too early to tell: nothing has been trained yet",))
    course = Course(trained, start if random is None else random, expected)
    due = [rule for rule in RULES if rule.since is None or course.now.progress >= limit(rule.since)]
    findings = [finding for rule in due if (finding := rule.look(course)) is not None]
    if not findings:
        return Verdict("healthy", None, _healthy(course, len(due) < len(RULES)))
    findings.sort(key=lambda finding: finding.state != "collapsed")  # stable: among equals the table's order
    return Verdict(findings[0].state, findings[0].failure, tuple(finding.evidence for finding in findings))


def _healthy(course: Course, early: bool) -> tuple[str, ...]:
    said = [f"too early to tell: {course.now.progress:.1%} of the run"] if early else []
    if (found := course.features) is not None:
        rank = "undefined" if found.effective_rank is None else f"{found.effective_rank:.1f} of {found.rank_cap}"
        said.append(
            f"films are told apart: relative std {found.relative_std:.3f}, mean cosine {found.mean_cosine:.3f}, "
            f"effective rank {rank}"
        )
    if len(course.readings) == 1:
        said.append("a single reading: no trend is known")
    return tuple(said) or ("nothing speaks against it",)


# A mean cosine of 0.9999 leaves a relative std of 0.01: films differ by less than float16 can tell.
_COLLAPSED_STD = 0.01
_COLLAPSED_RANK = 2.0
_RANK_CAP = 9  # with fewer than ten films a low rank says nothing: three films never reach a rank of 2
_SUSPECT_STD_OF_RANDOM = 0.5  # training halved what a random network told apart
_SUSPECT_FALL = 0.95  # of the curve's best: std and rank both ended lower (the published DINO run: 0.89, 0.90)
_FALLING_PAIRS = 0.9  # of all pairs of checkpoints the later is the lower: one step up is not a recovery


def verdict(curve: Sequence[CollapseMetrics], reference: CollapseMetrics | None = None) -> tuple[str, list[str]]:
    """Judge the last of ``curve`` (checkpoints in order) beside a random-initialised encoder.

    Collapsed: all films look the same to the encoder. Suspect: it tells films apart less than a random
    network, or less and less from checkpoint to checkpoint, as in the published DINO run, whose rank of
    400 looked healthy. A high mean cosine alone is no sign: SparK's is 0.95 and its features are useful.
    """
    now = curve[-1]
    reasons = []
    if now.relative_std < _COLLAPSED_STD:
        reasons.append(f"all films have nearly the same features (relative std {now.relative_std:.4f})")
    if now.effective_rank is None:
        reasons.append("the features are constant")
    elif now.effective_rank < _COLLAPSED_RANK and now.rank_cap >= _RANK_CAP:
        reasons.append(f"the features lie on a line (effective rank {now.effective_rank:.1f})")
    if reasons:
        return "collapsed", reasons
    if reference is not None and now.relative_std < _SUSPECT_STD_OF_RANDOM * reference.relative_std:
        reasons.append(
            f"films are told apart less than by a random network (relative std {now.relative_std:.3f}, "
            f"random {reference.relative_std:.3f})"
        )
    if _falls([m.relative_std for m in curve]) and _falls([m.effective_rank or 0.0 for m in curve]):
        reasons.append("std and effective rank fall from checkpoint to checkpoint")
    return ("suspect", reasons) if reasons else ("healthy", ["films are told apart"])


def _falls(values: Sequence[float]) -> bool:
    """Three or more values, nearly every one below those before it, the last well below the best."""
    pairs = [later < earlier for earlier, later in itertools.combinations(values, 2)]
    return len(values) > 2 and sum(pairs) >= _FALLING_PAIRS * len(pairs) and values[-1] < _SUSPECT_FALL * max(values)
