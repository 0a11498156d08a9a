"""W&B: never a prompt, never in the way, never a change of the weights. Nothing here reaches the network."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scarce_cli.engine import tracking
from scarce_cli.engine.tracking import Tracker
from scarce_cli.runs import RunFolder

ROOT = Path(__file__).parents[2]


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
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "true")  # put back at the end, whatever the tracker makes of it
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


def test_a_run_that_goes_on_is_the_same_run_there(fake: Fake) -> None:
    for logged in (0, 7):
        tracker = Tracker("offline", Path("runs/a"), {}, pytest.fail, logged=logged)
        tracker.log({"loss": 1.0}, logged + 1)
        tracker.finish()
    other = Tracker("offline", Path("runs/b"), {}, pytest.fail)
    other.finish()
    first, second, third = (values for name, values in fake.calls if name == "init")
    assert first["id"] == second["id"] != third["id"]
    assert first["resume"] == second["resume"] == "allow"
    assert json.loads(RunFolder(Path("runs/a")).wandb.read_text())["id"] == first["id"]


def _sent(fake: Fake) -> list[int]:
    return [values[0] for name, values in fake.calls if name == "log"]


def test_steps_taken_again_after_a_roll_back_are_sent_once(fake: Fake) -> None:
    """Also when the second session ends before it has caught up with the first."""
    for logged, steps in ((0, range(1, 9)), (8, range(5, 7)), (6, range(5, 11))):
        tracker = Tracker("offline", Path("runs/a"), {}, pytest.fail, logged=logged)
        for step in steps:
            tracker.log({"loss": 1.0}, step)
        tracker.finish()
    assert _sent(fake) == [*range(1, 11)]


def test_a_run_that_is_tracked_only_now_sends_from_where_it_stands(fake: Fake) -> None:
    tracker = Tracker("offline", Path("runs/a"), {}, pytest.fail, logged=8)
    for step in range(5, 9):
        tracker.log({"loss": 1.0}, step)
    tracker.finish()
    assert _sent(fake) == [5, 6, 7, 8]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '"abc"', '{"id": 7, "sent": 0}', '{"id": "../x", "sent": 0}', '{"id": "", "sent": 0}',
     '{"id": "abc"}', '{"id": "abc", "sent": "x"}', '{"id": "abc", "sent": Infinity}', b"\xff\xfe"],
)  # fmt: skip
def test_a_damaged_id_is_replaced(text: str | bytes, fake: Fake) -> None:
    run = RunFolder(Path("runs/a"))
    run.path.mkdir(parents=True)
    run.wandb.write_bytes(text if isinstance(text, bytes) else text.encode())
    Tracker("offline", run.path, {}, pytest.fail).finish()
    name = fake.calls[0][1]["id"]
    assert len(name) == 8
    assert json.loads(run.wandb.read_text()) == {"id": name, "sent": 0}


def test_an_id_that_cannot_be_kept_is_one_warning(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scarce_cli.files._fault_counts", Counter())
    monkeypatch.setenv("SCARCE_FAULT", "file.pre_rename:1:enospc")
    warnings: list[str] = []
    tracker = Tracker("offline", Path("runs/a"), {}, warnings.append)
    tracker.log({"loss": 1.0}, 1)
    tracker.finish()
    (warning,) = warnings
    assert warning.startswith("W&B failed (ResourceError: the disk is full")
    assert fake.names() == []


def test_logging_does_not_wait(fake: Fake) -> None:
    """Were it to wait, the first call would not return before the event that comes after it."""
    go_on = threading.Event()
    fake.fails["log"] = lambda: go_on.wait(60) or _fail()
    tracker = Tracker("offline", Path("a"), {}, pytest.fail)
    values = {"loss": 1.0}
    for step in (1, 2, 3):
        tracker.log(values, step)
        values["loss"] = -1.0  # what was handed over is a copy
    go_on.set()
    tracker.finish()
    assert [values for name, values in fake.calls if name == "log"] == [
        (1, {"loss": 1.0}), (2, {"loss": -1.0}), (3, {"loss": -1.0}),
    ]  # fmt: skip


def test_what_waits_in_vain_is_bounded_and_one_warning(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_WAITING", 5)
    go_on = threading.Event()
    fake.fails["log"] = lambda: go_on.wait(60) or _fail()
    warnings: list[str] = []
    tracker = Tracker("offline", Path("a"), {}, warnings.append)
    for step in range(1, 20):
        tracker.log({"loss": 1.0}, step)
    assert warnings == ["W&B failed (TimeoutError: 5 values are waiting); metrics.jsonl goes on without it"]
    go_on.set()
    tracker.finish()
    assert _sent(fake) in ([], [1])


def test_all_waiting_together_has_one_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow start leaves less for the end, and nothing is left once the time was used up."""
    now = [0.0]
    monkeypatch.setattr(tracking, "time", SimpleNamespace(monotonic=lambda: now[0]))
    worker = tracking._Worker(10.0)

    def slow(seconds: float) -> None:
        now[0] += seconds

    worker.ask(lambda: slow(4.0))
    assert worker._left == 6.0
    worker.ask(lambda: slow(7.0))
    assert worker._left == 0.0
    hangs = threading.Event()
    with pytest.raises(TimeoutError, match="no answer within 10 s"):
        worker.ask(hangs.wait)
    hangs.set()
    worker.leave()


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package itself, with nobody logged in."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "true")


def _records(path: Path) -> list[Any]:
    """What a .wandb file holds: a head of 7 bytes, then records of one part, each with checksum, length and type."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, found = path.read_bytes()[7:], []
    while len(data) >= 7:
        _, length, kind = struct.unpack("<IHB", data[:7])
        assert kind == 1
        found.append(Record.FromString(data[7 : 7 + length]))
        data = data[7 + length :]
    return found


def _history(folder: Path) -> list[tuple[int, dict[str, Any]]]:
    """Step and values of each line of history of a finished session, once its service has written all of it."""
    (path,) = folder.glob("*.wandb")
    for _ in range(200):
        records = _records(path)
        if records and records[-1].WhichOneof("record_type") == "exit":
            break
        time.sleep(0.05)
    lines = [record.history for record in records if record.WhichOneof("record_type") == "history"]
    return [(line.step.num, {i.nested_key[0]: json.loads(i.value_json) for i in line.item}) for line in lines]


@pytest.mark.usefixtures("real")
def test_the_real_package_goes_on_offline_and_has_each_step_once(tmp_path: Path) -> None:
    for logged, steps in ((0, range(1, 6)), (5, range(4, 9))):
        time.sleep(1 - time.time() % 1)  # sessions are named by the second
        tracker = Tracker("offline", tmp_path, {"run": {"epochs": 2}}, pytest.fail, logged=logged)
        for step in steps:
            tracker.log({"loss": step / 4}, step)
        tracker.finish()
    name = json.loads(RunFolder(tmp_path).wandb.read_text())["id"]
    found = [line for folder in sorted(tmp_path.glob(f"wandb/offline-run-*-{name}")) for line in _history(folder)]
    assert [(step, values["loss"]) for step, values in found] == [(n, n / 4) for n in range(1, 9)]


_SCRIPT = """
import os, signal, sys
from pathlib import Path
from scarce_cli.engine import tracking

def services():
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, _, rest = entry.read_text().partition(" ")
        except OSError:
            continue
        if int(rest.rpartition(")")[2].split()[1]) == os.getpid():
            yield int(number)

tracking._TIMEOUT = float(sys.argv[2])
tracker = tracking.Tracker(sys.argv[1], Path("run"), {}, lambda text: print("warning:", text))
tracker.log({"loss": 1.0}, 1)
if "crash" in sys.argv:
    tracker._worker.ask(lambda: None)
    for service in services():
        os.kill(service, signal.SIGKILL)
for step in range(2, 6):
    tracker.log({"loss": 1.0}, step)
tracker.finish()
print("went on")
"""


def _run_script(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _SCRIPT, *map(str, arguments)],
        capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip


@pytest.mark.usefixtures("real")
def test_offline_nothing_is_sent_not_even_what_the_package_measures_of_itself() -> None:
    heard: list[str] = []

    class Server(BaseHTTPRequestHandler):
        def handle(self) -> None:
            heard.append(str(self.client_address))

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        done = _run_script("offline", 30, WANDB_BASE_URL=address, WANDB_API_KEY="0" * 40)
        assert (done.stdout, done.stderr, done.returncode, heard) == ("went on\n", "", 0, [])
        with pytest.raises(OSError, match=r"."):
            urllib.request.urlopen(address, timeout=10)
        assert len(heard) == 1  # the server does hear
        server.shutdown()


@pytest.mark.usefixtures("real")
def test_a_dead_port_is_one_warning_and_the_process_ends(tmp_path: Path) -> None:
    done = _run_script("online", 3, WANDB_BASE_URL="http://127.0.0.1:9", WANDB_API_KEY="0" * 40)
    warning, last = done.stdout.splitlines()
    assert warning.startswith("warning: W&B failed (")
    assert (last, done.stderr, done.returncode) == ("went on", "", 0)


@pytest.mark.usefixtures("real")
def test_a_service_that_crashes_is_one_warning_and_no_traceback(tmp_path: Path) -> None:
    done = _run_script("offline", 30, "crash")
    warning, last = done.stdout.splitlines()
    assert warning.startswith("warning: W&B failed (")
    assert (last, done.stderr, done.returncode) == ("went on", "", 0)


@pytest.mark.usefixtures("real")
def test_the_real_package_records_offline_into_the_runs_folder(tmp_path: Path) -> None:
    tracker = Tracker("offline", tmp_path, {"run": {"epochs": 2}}, pytest.fail)
    tracker.log({"loss": 1.5}, 1)
    tracker.finish()
    (record,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert record.stat().st_size > 0
    assert "WANDB_SILENT" in os.environ
