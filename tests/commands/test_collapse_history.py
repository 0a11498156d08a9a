"""What a run said of itself: from its checkpoint, its log, an older version's log, and whatever else stands there."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from scarce_cli.checkpoint import EncoderInfo, SavedEncoder
from scarce_cli.commands.collapse_history import Checkpoint, History, is_recent, read_history, with_measured
from scarce_cli.config import RunConfig
from scarce_cli.evaluation.collapse import CollapseMetrics, Reading, judge, random_line, reading_line
from scarce_cli.methods import method_class, settings_class
from scarce_cli.presets import load_preset, validate
from scarce_cli.vitals import Expectations, Failure

TOP = math.log(32)  # of the smoke preset's 32 outputs
BLIND = {"loss": TOP, "mean_teacher_entropy": TOP, "teacher_information": 0.0}
SAID = {"loss": TOP, "mean_teacher_entropy": TOP, "teacher_information": 1e-4}  # a uniform teacher
ODD_LINES = [
    "", "null", "[]", "[1]", '"x"', "{", "{}", "NaN", '{"kind": "step"}', '{"kind": "collapse", "step": 3}',
    '{"kind": ["step"], "step": 1}', '{"kind": "step", "step": null, "loss": 1}', '{"kind": "step", "step": "2"}',
    '{"kind": "step", "step": 2, "loss": "x", "a": [1], "b": {"c": 1}, "d": true, "e": null}',
    '{"kind": "step", "step": 1e400, "loss": 1}', '{"kind": "step", "step": -5, "loss": 1e308}',
    '{"kind": "step", "step": 2, "loss": NaN}', '{"kind": "step", "step": 2, "loss": -Infinity}',
    f'{{"kind": "step", "step": 3, "loss": {"9" * 400}}}', f'{{"kind": "step", "step": {"9" * 400}}}',
    '{"kind": "collapse", "step": 4, "progress": 0.5, "signals": []}',
    '{"kind": "collapse", "step": 4, "progress": 7, "signals": {}}',
    '{"kind": "collapse", "step": 4, "progress": 0.5, "signals": {"loss": "x"}}',
    '{"kind": "collapse", "step": true, "progress": 0.5, "signals": {}}',
    '{"kind": "random", "films": "many"}', '{"kind": "step", "step": 2, "\\u0000": 1}', '\ud800\udfff'.encode(
        "utf-8", "replace"
    ).decode(),
]  # fmt: skip


def settings(method: str = "dino", *changes: str) -> dict[str, Any]:
    """As a checkpoint holds them: of 48 films and batches of 8, 6 steps an epoch and 12 in all."""
    preset = load_preset("smoke", method, changes)
    own = validate(preset, settings_class(method), ("method",)).model_dump(mode="json")
    return validate(preset, RunConfig).model_dump(mode="json") | {"method": own}


def one(folder: Path = Path("run"), *, method: str = "dino", step: int = 12, **origin: Any) -> Checkpoint:
    saved = SavedEncoder(
        {}, EncoderInfo("resnet18", 48, 0.5, 0.25), folder / "last.pt", "", method, 2, 0, {"films": 48}
    )
    values = {"method": method, "preset": "smoke", "step": step, "epoch": 2, "seed": 0, "settings": settings()}
    return Checkpoint(saved, values | origin)


def features(std: float = 0.3, films: int = 48) -> CollapseMetrics:
    return CollapseMetrics(
        films=films, dimensions=512, std=std, relative_std=std, dead_dimensions=0, mean_cosine=0.9,
        mean_cosine_centred=0.0, effective_rank=20.0, rank_cap=films - 1, rankme=9.0, alpha=1.0, alpha_range=(6, 40),
        uniformity=-0.5,
    )  # fmt: skip


def readings(*signals: dict[str, float], films: int = 48) -> list[Reading]:
    """One a step, from step 6 on."""
    return [Reading(6 + n, (6 + n) / 12, features(films=films), said) for n, said in enumerate(signals)]


def vitals(*said: Reading, blind: dict[str, float] | None = None) -> dict[str, Any]:
    expected = Expectations(BLIND if blind is None else blind)
    plain = [reading.as_plain() for reading in said]
    return {"expected": expected.as_plain(), "random": features(0.1).as_plain(), "readings": plain}


def log(folder: Path, *lines: dict[str, Any] | str) -> None:
    folder.mkdir(exist_ok=True)
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / "metrics.jsonl").write_text("\n".join(text) + "\n")


def looks(*said: Reading) -> list[dict[str, Any]]:
    return [{"kind": "random", **random_line(features(0.1))}, *({"kind": "collapse", **reading_line(r)} for r in said)]


def failure(history: History) -> Failure | None:
    return judge(history.readings, features(0.1), history.expected).failure


def test_the_checkpoint_says_it_wherever_it_lies(tmp_path: Path) -> None:
    said = readings(SAID, SAID)
    history = read_history(one(tmp_path, vitals=vitals(*said)))
    assert history.readings == tuple(said)
    assert history.expected == Expectations(BLIND)
    assert history.random == features(0.1)
    assert history.notes == ()
    assert failure(history) is Failure.UNIFORM_TEACHER


def test_the_log_beside_it_says_it_up_to_the_checkpoint(tmp_path: Path) -> None:
    said = readings({"loss": 4.0}, {"loss": 3.5}, {"loss": 9e9})
    log(tmp_path, *looks(*said))
    history = read_history(one(tmp_path, step=7))
    assert history.readings == tuple(said[:2])
    assert history.random == features(0.1)
    snapshot = one(tmp_path / "encoders", step=7)
    log(tmp_path, *looks(*said))
    assert read_history(snapshot).readings == tuple(said[:2])
    both = read_history(one(tmp_path, vitals=vitals(said[2]), step=8))
    assert [reading.step for reading in both.readings] == [6, 7, 8]


def test_an_older_log_of_steps_alone_is_summed_up(tmp_path: Path) -> None:
    """Means of what is finite, beside the spread of the loss and the share of steps that had none; rates are left."""
    log(tmp_path, *({"kind": "step", "step": n, "epoch": n / 6, "lr": 1.0, **SAID, "loss": n} for n in range(1, 13)))
    history = read_history(one(tmp_path))
    assert [reading.step for reading in history.readings] == list(range(1, 13))
    assert [reading.progress for reading in history.readings] == [n / 12 for n in range(1, 13)]
    assert history.readings[2].signals == SAID | {"loss": 3.0, "loss_std": 0.0, "loss_bad": 0.0}
    assert failure(history) is Failure.UNIFORM_TEACHER
    steps = ({"kind": "step", "step": n, "loss": [1.0, 3.0, None, 5.0][n % 4]} for n in range(1, 1201))
    log(tmp_path, *steps)
    long = one(tmp_path, step=1200, settings=settings("dino", "run.epochs=200"))
    history = read_history(long)
    assert [reading.step for reading in history.readings] == list(range(24, 1201, 24))
    assert all(reading.features is None for reading in history.readings)
    assert history.readings[7].signals == pytest.approx({"loss": 3.0, "loss_std": math.sqrt(8 / 3), "loss_bad": 0.25})


def test_a_log_of_epochs_alone_and_a_loss_that_never_was_a_number(tmp_path: Path) -> None:
    log(tmp_path, *({"kind": "epoch", "step": 6 * n, "epoch": n, "loss": None} for n in (1, 2)))
    history = read_history(one(tmp_path))
    assert [reading.step for reading in history.readings] == [6, 12]
    assert math.isnan(history.readings[1].signals["loss"])
    assert failure(history) is Failure.DIVERGED


def test_what_the_numbers_mean_is_asked_of_the_method(tmp_path: Path) -> None:
    history = read_history(one(tmp_path))
    assert history.expected.blind["mean_teacher_entropy"] == pytest.approx(TOP)
    assert history.readings == ()
    assert "by the features alone" in history.notes[0]
    for odd in (one(tmp_path, method="other"), one(tmp_path, settings={}), one(tmp_path, settings=[1])):
        history = read_history(odd)
        assert history.expected == Expectations()
        assert "is not known here" in history.notes[0]
    assert read_history(one(tmp_path, method="other")).kind is None


def test_odd_lines_are_left_out_and_the_rest_counts(tmp_path: Path) -> None:
    said = readings(SAID, SAID)
    log(tmp_path, *ODD_LINES, *looks(*said), *ODD_LINES)
    history = read_history(one(tmp_path))
    assert history.readings == tuple(said)
    assert failure(history) is Failure.UNIFORM_TEACHER
    log(tmp_path, *ODD_LINES)
    history = read_history(one(tmp_path))
    assert all(math.isfinite(v) or name == "loss" for r in history.readings for name, v in r.signals.items())
    judge(history.readings, None, history.expected)


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 10_000, "\x00\xff", '{"step": ' * 50_000])
def test_a_log_that_cannot_be_read_is_no_obstacle(tmp_path: Path, text: str) -> None:
    log(tmp_path, text)
    history = read_history(one(tmp_path, vitals=vitals(*readings(SAID))))
    assert failure(history) is Failure.UNIFORM_TEACHER


def test_a_log_that_may_not_be_read_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("scarce_cli.runs.read_metrics", refuse)
    assert "metrics.jsonl cannot be read: left out" in read_history(one(tmp_path)).notes[0]


def bomb(levels: int) -> list[Any]:
    """Takes a few bytes, and 2**levels numbers to write down."""
    value: list[Any] = [1, 1]
    for _ in range(levels):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    "odd",
    [
        None, 1, "x", [], {}, {"expected": None}, bomb(60), vitals(*readings(SAID)) | {"readings": [None]},
        vitals(*readings(SAID)) | {"readings": [{"step": -1}]}, vitals(*readings(SAID)) | {"expected": {"blind": []}},
        vitals(*readings(SAID)) | {"random": {"films": 10**400}},
    ],
)  # fmt: skip
def test_odd_vitals_are_a_note(tmp_path: Path, odd: Any) -> None:
    """Also those that would take for ever to read."""
    history = read_history(one(tmp_path, vitals=odd))
    assert history.readings == ()
    assert history.notes[0] == "what last.pt says of its run cannot be read: left out"


def test_odd_settings_and_places_are_borne(tmp_path: Path) -> None:
    loop: dict[str, Any] = {}
    loop["run"] = loop
    huge = settings()
    huge["method"] |= {"outputs": 10**12, "hidden": 10**9}  # built without taking the memory
    assert read_history(one(tmp_path, settings=huge)).expected.blind["mean_teacher_entropy"] == math.log(10**12)
    for odd in (loop, bomb(60), {"run": float("nan")}, "x" * 10**6):
        assert one(tmp_path, settings=odd).config is None
        assert read_history(one(tmp_path, settings=odd)).expected == Expectations()
    for step in (None, "3", -1, True, 10**400, math.nan):
        assert one(tmp_path, step=step).step == 2  # the epoch
    assert one(tmp_path, settings={}).progress == 1.0
    assert one(tmp_path, step=10**9).progress == 1.0
    assert one(tmp_path, step=3).progress == 0.25


def test_settings_are_given_only_where_those_of_the_method_fit_too() -> None:
    kind = method_class("dino")
    assert one().settings(kind) == settings()
    assert one(settings={}).settings(kind) is None
    odd = settings()
    odd["method"] |= {"outputs": "many"}
    assert one(settings=odd).config is not None
    assert one(settings=odd).settings(kind) is None


def test_what_is_measured_now_wins() -> None:
    now, said = features(0.5), readings({"loss": 4.0}, {"loss": 3.0})
    merged = with_measured(said, [(one(step=7), now), (one(step=9), now)])
    assert [(reading.step, reading.features, reading.signals) for reading in merged] == [
        (6, features(), {"loss": 4.0}),
        (7, now, {"loss": 3.0}),
        (9, now, {}),
    ]
    assert with_measured((), [(one(step=9), now)]) == (Reading(9, 0.75, now, {}),)
    beside = with_measured(said, [(one(step=8), now)])[-1]
    assert (beside.step, beside.signals) == (8, {})  # what was said at step 7 counts once


def test_ranks_of_other_numbers_of_films_are_not_mixed() -> None:
    merged = with_measured(readings(SAID, SAID, films=24), [(one(step=12), features())])
    assert [reading.features for reading in merged] == [None, None, features()]
    assert merged[0].signals == SAID


def test_the_run_s_own_verdict_counts_while_it_is_recent() -> None:
    assert is_recent(readings(SAID, SAID), one(step=8))
    assert not is_recent(readings(SAID, SAID), one(step=9))
    signals_alone = Reading(8, 8 / 12, None, SAID)
    assert not is_recent([signals_alone], one(step=8))
    assert is_recent([*readings(SAID), signals_alone], one(step=9))
    assert not is_recent([], one(step=8))
