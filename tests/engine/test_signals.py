"""A signal asks to stop, the third stops at once; elsewhere it unwinds the program, but never an import."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from scarce_cli.engine import signals
from scarce_cli.engine.signals import StopRequest, unwind_on_signals
from scarce_cli.errors import Terminated

KINDS = [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]


@pytest.fixture(autouse=True)
def _handlers_come_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(signals, "_tries", Counter())
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def signalling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module that sends this process the signal in SIGNAL while it is imported, and is then imported to its end."""
    text = "import os, time\nos.kill(os.getpid(), int(os.environ['SIGNAL']))\ntime.sleep(0.2)\ndone = True\n"
    (tmp_path / "signalling.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield "signalling"
    sys.modules.pop("signalling", None)


@pytest.mark.parametrize(("number", "kind"), KINDS)
def test_a_signal_unwinds_the_program(number: int, kind: type[BaseException]) -> None:
    unwind_on_signals()
    with pytest.raises(KeyboardInterrupt) as error:
        os.kill(os.getpid(), number)
    assert error.type is kind


@pytest.mark.parametrize(("number", "kind"), KINDS)
def test_a_signal_during_an_import_unwinds_after_it(
    number: int, kind: type[BaseException], signalling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGNAL", str(int(number)))
    unwind_on_signals()

    def import_and_work() -> None:
        importlib.import_module(signalling)
        time.sleep(10)

    with pytest.raises(KeyboardInterrupt) as error:
        import_and_work()
    assert error.type is kind
    assert sys.modules[signalling].done


def test_a_signal_during_an_import_reaches_the_training_that_began_meanwhile() -> None:
    """Looked at again, it belongs to whoever handles signals then."""
    unwind_on_signals()
    code = compile("os.kill(os.getpid(), number)", "<frozen importlib._bootstrap>", "exec")
    exec(code, {"os": os, "number": signal.SIGTERM})
    with StopRequest() as request:
        deadline = time.monotonic() + 10
        while request.stop is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert isinstance(request.stop, Terminated)


def test_imports_that_last_are_not_waited_for_forever(signalling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNAL", str(int(signal.SIGTERM)))
    monkeypatch.setattr(signals, "_TRIES", 2)
    unwind_on_signals()
    with pytest.raises(Terminated):
        importlib.import_module(signalling)
    assert signalling not in sys.modules


def test_ctrl_c_stays_ignored_in_the_background() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    unwind_on_signals()
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(Terminated):
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(("number", "kind"), KINDS)
def test_while_nothing_would_be_lost_a_signal_stops_at_once(number: int, kind: type[BaseException]) -> None:
    with StopRequest(at_once=True) as request:
        with pytest.raises(KeyboardInterrupt) as error:
            os.kill(os.getpid(), number)
        assert error.type is kind
        request.at_once = False
        os.kill(os.getpid(), number)
        assert type(request.stop) is kind


@pytest.mark.parametrize(("number", "kind"), KINDS)
def test_one_or_two_signals_only_ask_and_the_third_raises(number: int, kind: type[BaseException]) -> None:
    with StopRequest() as request:
        assert request.stop is None
        for _ in range(2):
            os.kill(os.getpid(), number)
            assert type(request.stop) is kind
        with pytest.raises(kind):
            os.kill(os.getpid(), number)


def test_the_last_signal_decides_and_other_handlers_come_back() -> None:
    before = [signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        with StopRequest() as request:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            assert isinstance(request.stop, Terminated)
        assert signal.getsignal(signal.SIGINT) == signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
        with pytest.raises(ValueError, match="x"), StopRequest():
            raise ValueError("x")
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])
