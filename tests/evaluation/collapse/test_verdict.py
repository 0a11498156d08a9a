"""The verdict: published runs, planted failures and healthy runs, and what must not change it."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scarce_cli.evaluation.collapse import CollapseMetrics, Reading, Verdict, collapse_metrics, judge
from scarce_cli.evaluation.collapse.thresholds import TABLE
from scarce_cli.vitals import Expectations, Failure

STEADY = settings(max_examples=60, deadline=None, derandomize=True)
SERIES = Path(__file__).parent / "published_series.csv"
LN_K = math.log(512)
MOCO = Expectations({"infonce": math.log(2049), "infonce_margin": 0.0, "infonce_accuracy": 0.0})
DINO = Expectations(
    {"teacher_entropy": LN_K, "mean_teacher_entropy": LN_K, "teacher_information": 0.0, "loss": LN_K}
)  # fmt: skip
BARLOW = Expectations({"on_diagonal": 512.0})
SPARK = Expectations({"loss": 1.0}, spreads=False)
FEATURES = CollapseMetrics(
    films=256, dimensions=512, std=0.4, relative_std=0.5, dead_dimensions=0, mean_cosine=0.7, mean_cosine_centred=0.0,
    effective_rank=100.0, rank_cap=255, rankme=60.0, alpha=1.0, alpha_range=(3, 50), uniformity=-1.0,
    alignment=0.2, retrieval=0.6, lidar=50.0,
)  # fmt: skip
RANDOM = replace(FEATURES, relative_std=0.12, mean_cosine=0.98, effective_rank=150.0, retrieval=0.3, std=0.05)


def run(rows: Sequence[Mapping[str, Any]], step: float = 0.02) -> list[Reading]:
    """A random start, then readings as far apart as ``step`` of the run; a row's "features" are changes to FEATURES."""
    start = Reading(0, 0.0, RANDOM, {})
    return [start] + [
        Reading(20 * i, step * i, replace(FEATURES, **row.get("features", {})), _signals(row))
        for i, row in enumerate(rows, 1)
    ]


def _signals(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name != "features"}


def curves(**values: Sequence[float]) -> list[dict[str, Any]]:
    """One row a reading from one sequence a name; names of features go there."""
    rows = []
    for now in zip(*values.values(), strict=True):
        row = dict(zip(values, now, strict=True))
        shape = {name: row.pop(name) for name in list(row) if name in FEATURES.__dataclass_fields__}
        rows.append(row | {"features": shape})
    return rows


def judged(rows: Sequence[Mapping[str, Any]], expected: Expectations, step: float = 0.02) -> Verdict:
    return judge(run(rows, step), RANDOM, expected)


# As measured with the CPU recipes on real films, epoch by epoch.
HEALTHY = {
    "dino": (DINO, curves(
        loss=[6.4, 5.66, 5.38, 5.14, 4.92, 4.76], teacher_entropy=[5.17, 5.5, 5.6, 5.4, 5.1, 4.47],
        mean_teacher_entropy=[6.238, 6.238, 6.238, 6.23, 6.22, 6.21],
        teacher_information=[1.07, 0.7, 0.5, 0.9, 1.1, 1.7],
        mean_cosine=[0.9, 0.75, 0.7, 0.66, 0.64, 0.63], relative_std=[0.3, 0.45, 0.5, 0.54, 0.56, 0.57],
        effective_rank=[120, 110, 90, 80, 76, 75], std=[0.3, 0.4, 0.45, 0.45, 0.4, 0.4])),
    "moco": (MOCO, curves(
        loss=[4.9, 6.4, 5.4, 5.3, 5.2, 5.1], infonce_accuracy=[0.07, 0.02, 0.12, 0.2, 0.25, 0.26],
        mean_cosine=[0.9, 0.68, 0.66, 0.62, 0.61, 0.58], effective_rank=[120, 87, 100, 105, 110, 113])),
    "barlow": (BARLOW, curves(
        loss=[354, 197, 161, 136, 118, 111], on_diagonal=[260, 90, 62, 50, 41, 39],
        off_diagonal=[18342, 36815, 21035, 16949, 15207, 14143], mean_cosine=[0.73, 0.73, 0.71, 0.7, 0.68, 0.68])),
    "spark": (SPARK, curves(
        loss=[0.99, 0.84, 0.6, 0.51, 0.48, 0.46], mean_cosine=[0.97, 0.965, 0.96, 0.959, 0.954, 0.953],
        relative_std=[0.2, 0.21, 0.22, 0.24, 0.24, 0.24], effective_rank=[150, 140, 138, 137, 135, 139])),
}  # fmt: skip


def series() -> dict[str, list[dict[str, str]]]:
    with SERIES.open(newline="") as file:
        return {name: list(rows) for name, rows in groupby(csv.DictReader(file), lambda row: row["run"])}


PLANNED = {"moco": 800, "barlow": 200, "spark": 200, "dino": 200}  # epochs
SPREADS = {"moco": True, "barlow": True, "spark": False, "dino": True}


def published(rows: Sequence[Mapping[str, str]]) -> list[Reading]:
    """The relative std is not given; sqrt(1 - cosine) is the most it can be."""
    return [
        Reading(
            int(row["epoch"]),
            int(row["epoch"]) / PLANNED[row["method"]],
            replace(
                FEATURES,
                std=float(row["std"]),
                mean_cosine=float(row["mean_cos"]),
                relative_std=math.sqrt(1 - float(row["mean_cos"])),
                effective_rank=float(row["eff_rank"]),
                rank_cap=511,
                retrieval=None,
            ),
            {},
        )
        for row in rows
    ]


@pytest.mark.parametrize("name", series())
def test_published_runs_are_judged_as_they_ended(name: str) -> None:
    """At every row, by what was known then. The rank of the failing run looks the healthiest of all."""
    rows = series()[name]
    readings, expected = published(rows), Expectations(spreads=SPREADS[rows[0]["method"]])
    found = [judge(readings[:count], None, expected) for count in range(1, len(rows) + 1)]
    verdicts = [(verdict.state, verdict.failure) for verdict in found]
    fine, failing = ("healthy", None), ("collapsed", Failure.FADING)
    shrunk = ("suspicious", Failure.SHRINKING)
    wanted = {"dino": [fine, failing, failing], "moco-v1": [fine, fine, shrunk, shrunk, shrunk, shrunk]}
    assert verdicts == wanted.get(name.partition(" ")[0], [fine] * len(rows))


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_runs_are_healthy_at_every_reading(name: str) -> None:
    expected, rows = HEALTHY[name]
    for count in range(1, len(rows) + 1):
        verdict = judged(rows[:count], expected)
        assert verdict.state == "healthy", verdict
        assert ("too early" in verdict.evidence[0]) == (count < 3)


@STEADY
@given(st.sampled_from(sorted(HEALTHY)), st.integers(0, 10_000), st.sampled_from([0.01, 0.02]))
def test_noise_does_not_make_a_healthy_run_fail(name: str, seed: int, step: float) -> None:
    expected, rows = HEALTHY[name]
    rng = np.random.default_rng(seed)
    noisy = []
    for row in rows:
        shape = {k: v * rng.normal(1, 0.02) for k, v in row["features"].items()}
        shape["mean_cosine"] = 1 - (1 - row["features"]["mean_cosine"]) * rng.normal(1, 0.02)
        noisy.append({k: v * rng.normal(1, 0.01) for k, v in row.items() if k != "features"} | {"features": shape})
    for count in range(1, len(rows) + 1):
        assert judged(noisy[:count], expected, step).state == "healthy"


def answers(kind: str) -> dict[str, float]:
    """A teacher's signals from 64 films' distributions over 512 outputs, by their definition."""
    rng = np.random.default_rng(0)
    logits = {
        "uniform": np.zeros((64, 512)) + 0.01 * rng.standard_normal((64, 512)),
        "one": 60.0 * np.eye(512)[np.zeros(64, int)],
        "same": np.tile(3 * rng.standard_normal(512), (64, 1)),
        "sharp": 60.0 * np.eye(512)[rng.permutation(512)[:64]],
    }[kind]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    mean = p.mean(axis=0)
    each, whole = -(p * np.log(p)).sum(axis=1).mean(), -(mean * np.log(mean)).sum()
    return {"teacher_entropy": each, "mean_teacher_entropy": whole, "teacher_information": whole - each}


@pytest.mark.parametrize(
    ("kind", "failure"),
    [
        ("uniform", Failure.UNIFORM_TEACHER),
        ("one", Failure.ONE_HOT_TEACHER),
        ("same", Failure.UNIFORM_TEACHER),  # neither even nor single, but nearer to even
        ("sharp", None),
    ],
)
def test_a_teacher_that_answers_alike_is_named_after_its_end(kind: str, failure: Failure | None) -> None:
    verdict = judged([answers(kind)] * 3, DINO)
    assert (verdict.state, verdict.failure) == (("collapsed", failure) if failure else ("healthy", None))
    said = (f"{answers(kind)['teacher_entropy']:.4g}", f"of ln K = {LN_K:.4g}")
    assert failure is None or all(part in verdict.evidence[0] for part in said)


def same_answer(entropies: Sequence[float], told: Sequence[float]) -> list[dict[str, Any]]:
    """Of the mean answer, and how much the films' answers differ from it; both as shares of ln K."""
    return curves(
        relative_std=[0.3 + 0.1 * i for i in range(len(told))],
        mean_teacher_entropy=[LN_K * share for share in entropies],
        teacher_information=[LN_K * share for share in told],
        loss=[LN_K * share for share in entropies],
    )


def test_what_lies_between_the_ends_is_named_after_where_it_goes() -> None:
    """As measured with the published settings: once it went to one end, once to the other."""
    told = [0.006, 0.003, 0.0008]
    assert judged(same_answer([0.94, 0.72, 0.54], told), DINO).failure is Failure.ONE_HOT_TEACHER
    assert judged(same_answer([0.94, 0.96, 0.98], told), DINO).failure is Failure.UNIFORM_TEACHER
    assert judged(same_answer([0.2, 0.3, 0.4], told), DINO).failure is Failure.UNIFORM_TEACHER
    assert judged(same_answer([0.3, 0.3, 0.3], told), DINO).failure is Failure.ONE_HOT_TEACHER


def test_a_teacher_that_begins_to_tell_films_apart_is_left_alone() -> None:
    level = [0.99] * 4
    assert judged(same_answer(level, [0.006, 0.003, 0.004, 0.006]), DINO).state == "healthy"
    assert judged(same_answer(level, [0.006, 0.0003, 0.0004, 0.0006]), DINO).state == "collapsed"
    assert judged(same_answer(level, [0.006, 0.004, 0.003, 0.003]), DINO).state == "collapsed"
    assert judged(same_answer(level[:2], [0.006, 0.003]), DINO).state == "healthy"  # too early


def test_constant_features_are_complete_collapse() -> None:
    for shape in ({"effective_rank": None, "relative_std": 0.0}, {"relative_std": 0.009, "mean_cosine": 0.9999}):
        for expected in (MOCO, SPARK):
            verdict = judged([{"features": shape}] * 2, expected)
            assert (verdict.state, verdict.failure) == ("collapsed", Failure.COMPLETE)
    assert judged([{"features": {"relative_std": 0.059}}] * 2, SPARK).state == "suspicious"
    assert judged([{"features": {"relative_std": 0.061}}] * 2, SPARK).state == "healthy"


def measured(kind: str, films: int = 120) -> CollapseMetrics:
    """Of drawn features and of two views that differ from them by a tenth of noise."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((films, 32))
    x = {
        "spread": x,
        "constant": np.ones_like(x),
        "nearly": 1 + 1e-4 * x,
        "line": x[:, :1] * rng.standard_normal(32) + 3 * rng.standard_normal(32),
    }[kind]
    spread = x.std() if kind == "line" else x.std(axis=0).mean()
    return collapse_metrics(x, x + 0.1 * spread * rng.standard_normal((2, films, 32)))


@pytest.mark.parametrize(
    ("kind", "films", "state", "failure"),
    [
        ("spread", 120, "healthy", None),
        ("spread", 3, "healthy", None),
        ("constant", 120, "collapsed", Failure.COMPLETE),
        ("nearly", 120, "collapsed", Failure.COMPLETE),  # its rank is as high as that of healthy features
        ("line", 120, "collapsed", Failure.DIMENSIONAL),
    ],
)
def test_features_are_judged_as_they_were_drawn(kind: str, films: int, state: str, failure: Failure | None) -> None:
    verdict = judge([Reading(100, 1.0, measured(kind, films), {})], measured("spread", films), Expectations())
    assert (verdict.state, verdict.failure) == (state, failure), verdict


def test_one_reading_of_a_finished_run_is_enough_for_what_needs_no_trend() -> None:
    """A checkpoint that holds no readings is measured once."""
    for shape, state in (({"relative_std": 0.001}, "collapsed"), ({}, "healthy")):
        verdict = judge([Reading(1, 1.0, replace(FEATURES, **shape), {})], None, Expectations())
        assert verdict.state == state
    assert "a single reading: no trend is known" in verdict.evidence


@pytest.mark.parametrize(
    ("shape", "off", "state"),
    [
        ({"effective_rank": 9.0}, 200_000.0, "collapsed"),
        ({"effective_rank": 9.0}, 5_000.0, "suspicious"),  # the rank alone decides nothing
        ({"effective_rank": 9.0, "dead_dimensions": 300}, 5_000.0, "collapsed"),
        ({"effective_rank": 9.0, "retrieval": 0.1}, 5_000.0, "collapsed"),
        ({"effective_rank": 100.0, "retrieval": 0.1}, 5_000.0, "healthy"),
        ({"effective_rank": 40.0}, 36_815.0, "healthy"),
        ({"effective_rank": 2.0, "rank_cap": 3, "films": 4}, 5_000.0, "healthy"),  # so few films span no more
    ],
)
def test_few_directions_need_a_second_sign(shape: dict[str, Any], off: float, state: str) -> None:
    verdict = judged([{"off_diagonal": off, "on_diagonal": 30.0, "features": shape}] * 2, BARLOW)
    assert verdict.state == state, verdict
    assert verdict.failure is (None if state == "healthy" else Failure.DIMENSIONAL)


def test_only_a_loss_that_spreads_films_is_to_find_their_views() -> None:
    """SparK's features of real films find fewer other views than random ones, and are useful."""
    rows = [{"features": {"effective_rank": 9.0, "retrieval": 0.1}}] * 2
    assert [judged(rows, expected).state for expected in (BARLOW, SPARK)] == ["collapsed", "suspicious"]


@pytest.mark.parametrize(
    ("accuracies", "found", "state"),
    [
        ([0.98, 0.99, 0.99], 0.32, "collapsed"),
        ([0.98, 0.99, 0.99], 0.5, "suspicious"),
        ([0.98, 0.99, 0.99], 0.9, "healthy"),  # solved, and by the film
        ([0.98, 0.99, 0.5], 0.32, "healthy"),
        ([1.0, 0.3, 0.99], 0.32, "healthy"),  # once is not enough
        ([0.98, 0.99, 0.99], None, "healthy"),  # nothing to hold it against
    ],
)
def test_leakage_is_a_task_solved_without_the_film(
    accuracies: list[float], found: float | None, state: str
) -> None:  # fmt: skip
    verdict = judged(curves(infonce_accuracy=accuracies, retrieval=[found] * 3), MOCO)
    assert verdict.state == state, verdict
    assert verdict.failure is (None if state == "healthy" else Failure.LEAKAGE)


@pytest.mark.parametrize("loss", [math.nan, math.inf, None])
def test_a_loss_that_is_no_number_has_diverged_at_once(loss: float | None) -> None:
    verdict = judged([{"loss": loss}], Expectations())
    assert (verdict.state, verdict.failure) == ("collapsed", Failure.DIVERGED)


def test_a_loss_of_many_times_its_start_has_diverged() -> None:
    def state(*losses: float) -> str:
        return judged(curves(loss=losses), MOCO).state

    assert state(1.0, 100.0) == "collapsed"
    assert state(1.0, 30.0) == "suspicious"
    assert state(1.0, 7.0) == "healthy"  # a queue that fills: below ln(1 + K)
    assert judged(curves(loss=[6.0, 6.1], loss_bad=[0.0, 0.6]), MOCO).failure is Failure.DIVERGED
    assert judged(curves(loss=[6.0, 6.1], loss_bad=[0.0, 0.01]), MOCO).state == "suspicious"


def test_a_loss_that_stands_where_it_began_is_not_learning() -> None:
    still = curves(loss=[1.004, 1.003, 1.003])
    verdict = judged(still, SPARK)
    assert (verdict.state, verdict.failure) == ("collapsed", Failure.NOT_LEARNING)
    assert "loss 1.003 after 6.0% of the run" in verdict.evidence[0]
    assert judged(still[:2], SPARK).state == "healthy"  # too early
    assert judged(curves(loss=[0.99, 0.84, 0.6]), SPARK).state == "healthy"


def test_elsewhere_the_features_must_stand_still_as_well() -> None:
    moves = [0.2, 0.3, 0.4]
    assert judged(curves(loss=[6.0, 6.01, 6.0]), MOCO).failure is Failure.NOT_LEARNING
    assert judged(curves(loss=[6.0, 6.01, 6.0], relative_std=moves), MOCO).state == "healthy"
    assert judged(curves(loss=[1.004, 1.003, 1.003], relative_std=moves), SPARK).failure is Failure.NOT_LEARNING
    assert judged(curves(loss=[2.9, 6.0, 6.01]), MOCO).failure is Failure.NOT_LEARNING  # the queue has filled since
    assert judged(curves(loss=[2.9, 6.0, 5.4]), MOCO).state == "healthy"


def test_a_decoder_that_paints_what_it_knows_anyway_is_not_learning() -> None:
    """Flat patches make the loss of painting means less than 1; what is explained of the rest does not know them."""
    expected, moves = Expectations({"loss": 1.0, "explained": 0.0}, spreads=False), [0.2, 0.3, 0.4]
    still = curves(loss=[0.902, 0.901, 0.9], explained=[-0.004, 0.001, 0.003], relative_std=moves)
    verdict = judged(still, expected)
    assert (verdict.failure, "explained 0.003" in verdict.evidence[0]) == (Failure.NOT_LEARNING, True)
    assert judged([row | {"explained": 0.1} for row in still], expected).state == "healthy"


def test_the_noise_of_the_loss_is_no_change() -> None:
    wide, narrow = (curves(loss=[490.0, 484.0, 478.0], loss_std=[spread] * 3) for spread in (20.0, 1.0))
    assert judged(wide, BARLOW).failure is Failure.NOT_LEARNING
    assert judged(narrow, BARLOW).state == "healthy"


def fade(share: float = 0.9, start: float = 0.96, count: int = 4) -> list[dict[str, Any]]:
    """Spread, rank and angle fall by a factor from reading to reading."""
    fall = [share**i for i in range(count)]
    return curves(std=fall, effective_rank=[200 * f for f in fall], mean_cosine=[1 - (1 - start) * f for f in fall])


def test_films_that_grow_alike_fail_where_the_loss_spreads_them() -> None:
    verdict = judged(fade(), MOCO)
    assert (verdict.state, verdict.failure) == ("collapsed", Failure.FADING)
    assert judged(fade(), SPARK).state == "healthy"
    assert judged(fade(start=0.5), MOCO).state == "healthy"
    assert judged(fade(0.999), MOCO).state == "healthy"
    assert judged(fade()[::-1], MOCO).state == "healthy"


@pytest.mark.parametrize("steady", ["std", "effective_rank", "mean_cosine"])
def test_a_fall_of_two_of_three_is_no_failure(steady: str) -> None:
    rows = [row | {"features": row["features"] | {steady: fade()[0]["features"][steady]}} for row in fade()]
    assert judged(rows, MOCO).state == "healthy"


def test_a_fall_after_a_long_healthy_time_is_seen() -> None:
    """And one step up is no recovery."""
    healthy = curves(std=[0.5] * 20, effective_rank=[100.0] * 20, mean_cosine=[0.6] * 20)
    falling = curves(
        std=[0.3, 0.2, 0.1, 0.11], effective_rank=[60, 40, 20, 21], mean_cosine=[0.93, 0.95, 0.97, 0.969]
    )  # fmt: skip
    assert judged(healthy + falling[:1], MOCO).state == "healthy"
    assert judged(healthy + falling, MOCO).failure is Failure.FADING


def test_shrinking_is_suspicious_only() -> None:
    verdict = judged(curves(std=[0.363, 0.162, 0.061]), MOCO)
    assert (verdict.state, verdict.failure) == ("suspicious", Failure.SHRINKING)
    assert judged(curves(std=[0.363, 0.162, 0.1]), MOCO).state == "healthy"


def test_the_worst_comes_first_and_the_rest_is_told_as_well() -> None:
    rows = curves(std=[0.4, 0.05, 0.05], loss=[1.0, 0.5, math.nan])
    verdict = judged(rows, SPARK)
    assert (verdict.state, verdict.failure) == ("collapsed", Failure.DIVERGED)
    assert ["not finite" in verdict.evidence[0], "std fell" in verdict.evidence[1]] == [True, True]


def test_nothing_is_said_of_nothing() -> None:
    for readings in ([], run([])):
        assert judge(readings, None, Expectations()).state == "healthy"
    assert judge([Reading(40, 0.5, None, {})], None, Expectations()).evidence == (
        "a single reading: no trend is known",
    )


@STEADY
@given(st.sampled_from(sorted(HEALTHY)), st.floats(-20, 20), st.booleans())
def test_the_unit_of_the_features_does_not_matter(name: str, exponent: float, failing: bool) -> None:
    expected, rows = (MOCO, fade()) if failing else HEALTHY[name]
    scaled = [replace_std(reading, 10**exponent) for reading in run(rows)]
    there, here = judge(scaled, RANDOM, expected), judge(run(rows), RANDOM, expected)
    assert (there.state, there.failure) == (here.state, here.failure)


def replace_std(reading: Reading, factor: float) -> Reading:
    assert reading.features is not None
    return replace(reading, features=replace(reading.features, std=reading.features.std * factor))


NAMES = (
    "loss", "loss_std", "loss_bad", "infonce_accuracy", "teacher_entropy", "mean_teacher_entropy",
    "teacher_information", "on_diagonal", "off_diagonal", "unknown",
)  # fmt: skip
ANY = st.one_of(st.floats(width=32), st.sampled_from([0.0, 1.0, -1.0, math.nan, math.inf]))
MEASURED = [name for name in FEATURES.__dataclass_fields__ if name not in ("films", "dimensions", "alpha_range")]
MISSING = ("effective_rank", "rankme", "alpha", "alignment", "retrieval", "lidar")
SHAPES = st.dictionaries(st.sampled_from(MEASURED), ANY).flatmap(
    lambda some: st.sets(st.sampled_from(MISSING)).map(
        lambda gone: replace(FEATURES, **{**some, **dict.fromkeys(gone)})
    )
)  # fmt: skip
READINGS = st.lists(
    st.builds(
        Reading,
        st.integers(0, 1000),
        st.floats(0, 1),
        st.none() | SHAPES,
        st.dictionaries(st.sampled_from(NAMES), st.none() | ANY),
    ),
    max_size=6,
)


@settings(STEADY, max_examples=100)
@given(
    READINGS, st.none() | SHAPES, st.sampled_from([MOCO, DINO, BARLOW, SPARK, Expectations({"loss": math.nan})])
)  # fmt: skip
def test_whatever_is_read_there_is_a_verdict(
    readings: list[Reading], random: CollapseMetrics | None, expected: Expectations
) -> None:
    verdict = judge(readings, random, expected)
    assert verdict.state in ("healthy", "suspicious", "collapsed")
    assert (verdict.failure is None) == (verdict.state == "healthy")
    assert verdict.evidence
    assert all(verdict.evidence)
    turned = [replace(one, signals=dict(reversed(list(one.signals.items())))) for one in readings]
    blind = dict(reversed(list(expected.blind.items())))
    assert judge(turned, random, replace(expected, blind=blind)) == verdict


def test_every_line_is_drawn_once_gives_its_reason_and_is_used() -> None:
    names = [line.name for line in TABLE]
    assert len(set(names)) == len(names)
    assert all(line.reason and line.measured for line in TABLE)
    package = Path(judge.__code__.co_filename).parent
    rules = "".join(path.read_text() for path in package.glob("*.py") if path.name != "thresholds.py")
    assert [name for name in names if f'"{name}"' not in rules] == []
