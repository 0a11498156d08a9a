"""What the readings of a run mean: healthy, suspicious or collapsed, by which failure, on what evidence."""

from __future__ import annotations

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

    @property
    def in_words(self) -> str:
        """On one line."""
        named = "" if self.failure is None else f", {self.failure}"
        return f"{self.state}{named}: {'; '.join(self.evidence)}"

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
    Rule(signal_rules.constant_output),
    Rule(signal_rules.leakage),
    Rule(feature_rules.dimensional),
    Rule(feature_rules.fading),
    Rule(signal_rules.not_learning, "learning"),
    Rule(feature_rules.shrinking),
)


_SEEN_IN_FEATURES = (Failure.COMPLETE, Failure.DIMENSIONAL, Failure.FADING, Failure.NOT_LEARNING)


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


def is_confirmed(readings: Sequence[Reading], random: CollapseMetrics | None, expected: Expectations) -> bool:
    """Whether the last reading says collapsed, and the one before that could tell says so too, by the same failure.

    A single reading may be mistaken, two hardly. A failure that is seen in the features is confirmed by the reading
    that has features before; what lies between had none to tell. Arguments as `judge`.
    """
    now = judge(readings, random, expected)
    if now.state != "collapsed":
        return False
    by_features = now.failure in _SEEN_IN_FEATURES and readings[-1].features is not None
    for count in range(len(readings) - 1, 0, -1):
        before = judge(readings[:count], random, expected)
        if (before.state, before.failure) == ("collapsed", now.failure):
            return True
        if readings[count - 1].features is not None or not by_features:
            return False
    return False


def _healthy(course: Course, early: bool) -> tuple[str, ...]:
    said = [f"too early to tell: {course.now.progress:.1%} of the run"] if early else []
    if (found := course.last_measured) is not None:
        rank = "undefined" if found.effective_rank is None else f"{found.effective_rank:.1f} of {found.rank_cap}"
        said.append(
            f"films are told apart: relative std {found.relative_std:.3f}, mean cosine {found.mean_cosine:.3f}, "
            f"effective rank {rank}"
        )
    if len(course.readings) == 1:
        said.append("a single reading: no trend is known")
    return tuple(said) or ("nothing speaks against it",)
