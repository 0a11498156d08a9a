"""A signal asks to stop; the third stops at once."""

from __future__ import annotations

import os
import signal

import pytest

from scarce_cli.engine.signals import StopRequest
from scarce_cli.errors import Terminated


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
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
