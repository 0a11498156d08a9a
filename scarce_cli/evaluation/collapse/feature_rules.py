"""Rules that read the features of whole films in evaluation mode: are they constant, few, or ever more alike?

Each looks at a course and returns what it found, or None. No rule decides by the effective rank alone: it does not
know the scale, and training concentrates healthy features too.
"""

from __future__ import annotations

from collections.abc import Sequence

from scarce_cli.evaluation.collapse.course import Course, Finding, State
from scarce_cli.evaluation.collapse.measures import CollapseMetrics
from scarce_cli.evaluation.collapse.thresholds import limit
from scarce_cli.vitals import Failure

_RANK_CAP = 9  # with fewer than ten films a low rank says nothing: three films never reach a rank of 2
_LATELY = 6  # readings, so that a fall after a long healthy time is seen soon


def complete(course: Course) -> Finding | None:
    """All films have nearly the same features."""
    found = course.features
    if found is None:
        return None
    if found.effective_rank is None:
        return Finding(Failure.COMPLETE, "collapsed", f"the features of all {found.films} films are constant")
    beside = "" if course.random is None else f", random network {course.random.relative_std:.3g}"
    numbers = f"relative std {found.relative_std:.3g}{beside}, mean cosine {found.mean_cosine:.4f}"
    if found.relative_std < limit("constant"):
        return Finding(Failure.COMPLETE, "collapsed", f"all films have nearly the same features ({numbers})")
    if course.random is not None and found.relative_std < limit("of random") * course.random.relative_std:
        return Finding(Failure.COMPLETE, "suspicious", f"films differ less than for a random network ({numbers})")
    return None


def dimensional(course: Course) -> Finding | None:
    """The features use few directions, and another sign says that they are too few; or the embedding has only one."""
    found, correlation = course.last_measured, _correlation(course)
    if found is None or (course.features is None and correlation is None):
        return None  # nothing new
    low = course.features is not None and _few_directions(found, course.random)  # no measurement speaks twice
    signs = [sign for sign in (_copies(course), _dead(found) if course.features else None) if sign]
    if low and course.expected.spreads and (lost := _views_lost(found, course.random)):
        signs.append(lost)
    if not (low or signs):
        return None
    certain = (low and signs) or (correlation or 0.0) >= limit("copied")
    state: State = "collapsed" if certain else "suspicious"
    return Finding(Failure.DIMENSIONAL, state, "; ".join([_directions(found, course.random), *signs]))


def _directions(found: CollapseMetrics, random: CollapseMetrics | None) -> str:
    rank = "undefined" if found.effective_rank is None else f"{found.effective_rank:.1f} of {found.rank_cap}"
    beside = "" if random is None or random.effective_rank is None else f", random network {random.effective_rank:.1f}"
    return f"effective rank {rank}{beside}"


def _few_directions(found: CollapseMetrics, random: CollapseMetrics | None) -> bool:
    if found.effective_rank is None or found.rank_cap < _RANK_CAP:
        return False
    beside = found.rank_cap if random is None or random.effective_rank is None else random.effective_rank
    few = found.effective_rank < limit("few directions") * found.rank_cap
    return few and found.effective_rank < limit("fewer than random") * beside


def _copies(course: Course) -> str | None:
    """From the correlation matrix of the embedding: the mean square of its D (D - 1) entries off the diagonal."""
    found = _correlation(course)
    if found is None or found < limit("copies"):
        return None
    return (
        f"off_diagonal {course.signal('off_diagonal'):.4g}: the embedding's dimensions correlate with a mean square of "
        f"{found:.2f} (0: each says something else, 1: copies)"
    )


def _correlation(course: Course) -> float | None:
    """Mean square between two dimensions of the embedding."""
    size, off = course.blind("on_diagonal"), course.signal("off_diagonal")
    return None if size is None or size <= 1 or off is None else off / (size * (size - 1))


def _dead(found: CollapseMetrics) -> str | None:
    if found.dead_dimensions < limit("dead") * found.dimensions:
        return None
    return f"{found.dead_dimensions} of {found.dimensions} dimensions never change"


def _views_lost(found: CollapseMetrics, random: CollapseMetrics | None) -> str | None:
    """Asked only where the loss spreads films: one that paints what is hidden has no use for it, and loses views."""
    chance = None if random is None else random.retrieval
    if found.retrieval is None or chance is None or not found.retrieval < chance:
        return None
    return f"{found.retrieval:.3f} of the films' other views are found, fewer than by a random network ({chance:.3f})"


def fading(course: Course) -> Finding | None:
    """Where the loss spreads films: they are alike, and grow more so in every respect.

    All three of raw spread, rank and angle: one of them falls in healthy runs too.
    """
    found, shapes = course.features, course.measured
    if found is None or not course.expected.spreads or found.mean_cosine < limit("alike"):
        return None
    curves = (
        [shape.std for shape in shapes],
        [shape.effective_rank or 0.0 for shape in shapes],
        [1 - shape.mean_cosine for shape in shapes],
    )
    since = next((span for span in (len(shapes), _LATELY) if all(_fades(curve[-span:]) for curve in curves)), None)
    if since is None:
        return None
    first = max(shapes[-since:], key=lambda shape: shape.std)
    return Finding(
        Failure.FADING,
        "collapsed",
        f"films grow alike: since an earlier reading mean cosine {first.mean_cosine:.3f} to {found.mean_cosine:.3f}, "
        f"std {first.std:.3g} to {found.std:.3g}, effective rank {first.effective_rank or 0:.1f} to "
        f"{found.effective_rank or 0:.1f} (healthy: the cosine falls below {limit('alike')})",
    )


def _fades(values: Sequence[float]) -> bool:
    """The whole later half lies below the best of the earlier one."""
    half = len(values) // 2
    return half > 0 and max(values[half:]) <= limit("fade") * max(values[:half])


def shrinking(course: Course) -> Finding | None:
    """The raw spread fell to a small part of what it was, whatever the directions."""
    found, before = course.features, course.measured[:-1]
    if found is None or not before:
        return None
    best = max(shape.std for shape in before)
    if not found.std < limit("shrunk") * best:
        return None
    return Finding(
        Failure.SHRINKING,
        "suspicious",
        f"the features' std fell from {best:.3g} to {found.std:.3g} (mean cosine {found.mean_cosine:.3f})",
    )
