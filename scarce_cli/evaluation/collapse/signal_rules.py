"""Rules that read what the method says of itself: has it diverged, does its teacher answer, does it learn?

Each looks at a course and returns what it found, or None. None of them knows a method: a rule whose scalars are not
given says nothing.
"""

from __future__ import annotations

import math

from scarce_cli.evaluation.collapse.course import Course, Finding, State, finite
from scarce_cli.evaluation.collapse.reading import Reading
from scarce_cli.evaluation.collapse.thresholds import limit
from scarce_cli.vitals import Failure


def diverged(course: Course) -> Finding | None:
    """The loss is not a number any more, or many times what it was."""
    loss, bad = course.signal("loss"), course.signal("loss_bad") or 0.0
    if bad >= limit("bad steps") or (loss is None and "loss" in course.now.signals):
        share = f" in {bad:.0%} of the steps" if bad else ""
        return Finding(Failure.DIVERGED, "collapsed", f"the loss is not finite{share}")
    if bad:
        return Finding(Failure.DIVERGED, "suspicious", f"the loss was not finite in {bad:.1%} of the steps")
    return None if loss is None else _exploded(course, loss)


def _exploded(course: Course, loss: float) -> Finding | None:
    blind = (course.blind(name) or 0.0 for name in course.expected.blind)
    usual = max(abs(value) for value in (course.history("loss")[0], *blind))
    state = _above(abs(loss), usual * limit("exploded"), usual * limit("swollen"))
    if state is None or not usual:
        return None
    beside = f"{abs(loss) / usual:.0f} times {usual:.4g}, the larger of its first value and that of a blind network"
    return Finding(Failure.DIVERGED, state, f"loss {loss:.4g}: {beside}")


def _above(value: float, collapsed: float, suspicious: float) -> State | None:
    if value > collapsed:
        return "collapsed"
    return "suspicious" if value > suspicious else None


def teacher(course: Course) -> Finding | None:
    """The teacher gives every film the same answer: all outputs alike, or a single one.

    A sharp answer for each film is as it should be where films get different ones. Where the answers are the same but
    neither even nor single, the failure is called after the end that they go to.
    """
    top, mean = course.blind("mean_teacher_entropy"), course.signal("mean_teacher_entropy")
    told = course.signal("teacher_information")
    if not top or mean is None or told is None:
        return None
    if mean <= limit("one output") * top:
        return _few_outputs(mean, told, top)
    if told > limit("nothing told") * top or _information_rises(course, top):
        return None
    return _same_answer(_end(course, mean / top), mean, told, top)


def _few_outputs(mean: float, told: float, top: float) -> Finding:
    used = f"about {math.exp(mean):.1f} of {math.exp(top):.0f} outputs"
    return Finding(
        Failure.ONE_HOT_TEACHER,
        "collapsed",
        f"entropy {mean:.4g} of the mean answer over films, of ln K = {top:.4g}: no more than {used} are used, and a "
        f"film's own answer has {mean - told:.4g} (healthy: the mean answer is near ln K)",
    )


def _information_rises(course: Course, top: float) -> bool:
    *before, now = course.history("teacher_information")
    hardly = now <= limit("hardly anything told") * top
    return bool(before) and not hardly and now >= limit("information rises") * min(before)


def _end(course: Course, share: float) -> Failure:
    """Where the mean answer goes, from its entropy over ln K now and at the start."""
    start = course.history("mean_teacher_entropy")[0] / (course.blind("mean_teacher_entropy") or 1.0)
    moved = share - start
    clear = share < limit("uniform") and abs(moved) > limit("entropy moves")
    towards_uniform = moved > 0 if clear else share > 0.5
    return Failure.UNIFORM_TEACHER if towards_uniform else Failure.ONE_HOT_TEACHER


def _same_answer(failure: Failure, mean: float, told: float, top: float) -> Finding:
    each = mean - told
    return Finding(
        failure,
        "collapsed",
        f"teacher entropy {each:.4g} of ln K = {top:.4g}, and {mean:.4g} for the mean over films: they differ by "
        f"{told:.2g} nats, so that every film gets the same answer (healthy: some nats)",
    )


def constant_output(course: Course) -> Finding | None:
    """What the loss sees of the network is constant: it reads as when all films are alike, and never varies.

    The features before it may differ still: where its output is constant, no gradient reaches them.
    """
    blind, loss, spread = course.blind("loss"), course.signal("loss"), course.signal("loss_std")
    if not course.expected.spreads or blind is None or loss is None or spread is None:
        return None
    far = limit("exactly blind") * max(1.0, abs(blind))
    if abs(loss - blind) > far or spread > far:
        return None
    return Finding(
        Failure.COMPLETE,
        "collapsed",
        f"the loss is {loss:.5g}, that of a network to which all films are alike ({blind:.5g}), and varies by "
        f"{spread:.1g} from step to step: what it sees of the network is constant",
    )


def leakage(course: Course) -> Finding | None:
    """The task is solved in training, and the network in evaluation mode does not recognise a film's other view."""
    accuracies = [course.signal("infonce_accuracy", back) for back in (0, 1)]
    if any(accuracy is None or accuracy < limit("solved") for accuracy in accuracies):
        return None
    found = None if course.last_measured is None else course.last_measured.retrieval
    chance = None if course.random is None else course.random.retrieval
    if found is None or chance is None or accuracies[0] is None or accuracies[0] - found < limit("gap"):
        return None
    flat = found - chance < limit("views found") * (1 - chance)
    return Finding(
        Failure.LEAKAGE,
        "collapsed" if flat else "suspicious",
        f"infonce_accuracy {accuracies[0]:.3f} in training, but in evaluation mode {found:.3f} of the films' other "
        f"views are found (random network: {chance:.3f}): the keys are recognised by something else than the film",
    )


def not_learning(course: Course) -> Finding | None:
    """The loss stands where it began, and the features as well; or every other scalar reads as for a blind network.

    "Began" is the first reading or the second, or the first after things have settled: while a queue fills a loss
    rises, and what comes then is the start.
    """
    stands = [start for start in _starts(course) if _same_loss(course, start)]
    blind = next((said for start in stands if (said := _blind_scalars(course, start))), "")
    if not blind and not any(_same_features(start, course.now) for start in stands):
        return None
    also = f"and as for a network to which all films are alike, {blind}" if blind else "and so do the features"
    return Finding(
        Failure.NOT_LEARNING,
        "collapsed",
        f"loss {course.now.signals['loss']:.4g} after {course.now.progress:.1%} of the run: it stands where it began "
        f"({stands[0].signals['loss']:.4g}), {also}",
    )


def _starts(course: Course) -> list[Reading]:
    given = [reading for reading in course.readings[:-1] if "loss" in reading.signals]
    settled = [reading for reading in given[2:] if reading.progress >= limit("settled")]
    return [*given[:2], *settled[:1]]


def _blind_scalars(course: Course, start: Reading) -> str:
    """The scalars in words when all have read as for a blind network since a start; the loss where it is alone."""
    blind = {name: value for name in course.expected.blind if (value := course.blind(name)) is not None}
    given = [name for name in sorted(blind) if course.signal(name) is not None]
    names = [name for name in given if name != "loss"] or given
    always = all(_is_blind(course, name, value) for name in names for value in course.history(name, start.step))
    return ", ".join(f"{name} {course.signal(name):.4g}" for name in names) if always else ""


def _is_blind(course: Course, name: str, value: float) -> bool:
    """Whether a scalar reads as for a blind network, or, where that is known, worse."""
    blind = course.blind(name) or 0.0
    worse = (name in course.expected.rises and value < blind) or (name == "loss" and value > blind)
    return worse or abs(value - blind) <= limit("at blind") * max(1.0, abs(blind))


def _same_loss(course: Course, start: Reading) -> bool:
    """No further apart than the noise of two means over the steps between readings."""
    then, loss = (finite(reading.signals.get("loss")) for reading in (start, course.now))
    if then is None or loss is None:
        return False
    spread = finite(course.now.signals.get("loss_std")) or 0.0
    noise = limit("noise") * spread * math.sqrt(2 / course.steps_apart)
    tolerated = min(max(noise, limit("same loss") * abs(then)), limit("most noise") * abs(then))
    return abs(loss - then) <= tolerated


def _same_features(start: Reading, now: Reading) -> bool:
    if start.features is None or now.features is None:
        return False
    pairs = [
        (start.features.relative_std, now.features.relative_std),
        (start.features.effective_rank or 0.0, now.features.effective_rank or 0.0),
    ]
    return all(abs(later - then) <= limit("same features") * abs(then) for then, later in pairs)
