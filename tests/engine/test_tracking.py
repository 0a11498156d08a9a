"""W&B: never a prompt, never in the way, never a change of the weights. Nothing here reaches the network."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scarce_cli.engine import tracking
from scarce_cli.engine.tracking import Tracker


class Fake:
    """A stand-in for the package: records what is called, and fails or hangs where it is told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.fails: dict[str, Callable[[], None]] = {}
        self.Settings = SimpleNamespace

    def _call(self, name: str, values: Any) -> None:
        self.calls.append((name, values))
        self.fails.get(name, lambda: None)()

    def init(self, **arguments: Any) -> Fake:
        self._call("init", arguments)
        return self

    def log(self, values: dict, step: int) -> None:
        self._call("log", (step, values))

    def finish(self) -> None:
        self._call("finish", None)

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fake:
    """In place of wandb; nobody is logged in, and ten seconds are a fifth of one."""
    stand_in = Fake()
    monkeypatch.setitem(sys.modules, "wandb", stand_in)  # type: ignore[arg-type]
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(tracking, "_TIMEOUT", 0.2)
    return stand_in


def _fail() -> None:
    raise ConnectionError("no network")


def _hang() -> None:
    time.sleep(1.0)


def test_off_does_not_even_import_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    tracker = Tracker("off", Path("a"), {}, pytest.fail)
    tracker.log({"loss": 1.0}, 1)
    tracker.finish()


def test_metrics_go_there_with_their_step(fake: Fake) -> None:
    tracker = Tracker("offline", Path("runs/a"), {"run": {"epochs": 2}}, pytest.fail)
    tracker.log({"loss": 1.5}, 10)
    tracker.finish()
    tracker.log({"loss": 1.0}, 20)
    tracker.finish()
    assert fake.names() == ["init", "log", "finish"]
    start = fake.calls[0][1]
    assert (start["mode"], start["name"], start["dir"]) == ("offline", "a", "runs/a")
    assert start["config"] == {"run": {"epochs": 2}}
    assert fake.calls[1][1] == (10, {"loss": 1.5})


@pytest.mark.parametrize("key", ["", "environment", "netrc", "other host", "broken netrc"])
def test_without_a_key_it_records_offline_and_never_asks(
    key: str, fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", pytest.fail)
    if key == "environment":
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    elif key:
        host = "example.org" if key == "other host" else "api.wandb.ai"
        text = f"machine {host}\n  login user\n  password {'0' * 40}\n"
        (tmp_path / "netrc").write_text("machine" if key == "broken netrc" else text)
    warnings: list[str] = []
    Tracker("online", Path("a"), {}, warnings.append)
    has_key = key in ("environment", "netrc")
    assert fake.calls[0][1]["mode"] == ("online" if has_key else "offline")
    assert len(warnings) == (not has_key)
    assert all("no API key found (WANDB_API_KEY or 'wandb login')" in warning for warning in warnings)


@pytest.mark.parametrize("how", [_fail, _hang], ids=["fails", "hangs"])
@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_what_fails_or_hangs_is_one_warning_and_no_more_calls(where: str, how: Callable, fake: Fake) -> None:
    fake.fails[where] = how
    warnings: list[str] = []
    tracker = Tracker("offline", Path("a"), {}, warnings.append)
    for step in (1, 2, 3):
        tracker.log({"loss": 1.0}, step)
    tracker.finish()
    (warning,) = warnings
    reason = "ConnectionError: no network" if how is _fail else "TimeoutError: no answer within 0.2 s"
    assert warning == f"W&B failed ({reason}); metrics.jsonl goes on without it"
    calls = {"init": ["init"], "log": ["init", "log"], "finish": ["init", "log", "log", "log", "finish"]}
    assert fake.names() == calls[where]


def test_a_timeout_of_its_own_and_a_missing_package_are_warnings_too(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def time_out() -> None:
        raise TimeoutError("from inside")

    fake.fails["init"] = time_out
    warnings: list[str] = []
    Tracker("offline", Path("a"), {}, warnings.append)
    assert "TimeoutError: from inside" in warnings[0]
    monkeypatch.setitem(sys.modules, "wandb", None)
    Tracker("offline", Path("a"), {}, warnings.append)
    assert "W&B failed (ModuleNotFoundError" in warnings[1]


@pytest.mark.parametrize("trouble", ["none", "init fails", "init hangs", "log fails", "finish hangs", "no package"])
def test_the_weights_and_the_log_are_those_without_it(
    trouble: str, train: Callable, same: Any, lines: Any, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = train("run.epochs=1", out="runs/plain")
    where, _, how = trouble.partition(" ")
    fake.fails = {where: _fail if how == "fails" else _hang} if how else {}
    if trouble == "no package":
        monkeypatch.setitem(sys.modules, "wandb", None)
    with_it = train("run.epochs=1", wandb="online")
    assert same(plain.weights, with_it.weights)
    assert lines("runs/plain") == lines()
    failed = [w for w in with_it.listener.all("warned") if w.startswith("W&B failed")]
    assert len(failed) == (trouble != "none")
    if trouble == "none":
        steps = [step for name, (step, _) in fake.calls[1:-1] if name == "log"]
        assert steps == [1, 2, 3, 4, 5, 6, 6]
        assert "epoch/loss" in fake.calls[-2][1][1]


def test_the_real_package_records_offline_into_the_runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_MODE")
    tracker = Tracker("offline", tmp_path, {"run": {"epochs": 2}}, pytest.fail)
    tracker.log({"loss": 1.5}, 1)
    tracker.finish()
    (record,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert record.stat().st_size > 0
    assert "WANDB_SILENT" in os.environ
