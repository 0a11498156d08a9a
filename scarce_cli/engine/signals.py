"""Ctrl-C and SIGTERM: where nothing is lost they unwind the program; in training they wait for the step and a save."""

from __future__ import annotations

import signal
from collections import Counter
from types import FrameType, TracebackType
from typing import Any

from scarce_cli.errors import Terminated

_BOTH = (signal.SIGINT, signal.SIGTERM)
_PATIENCE = 3  # the third signal stops at once, whatever is being written
_SOON = 0.05  # seconds until a signal that came in the midst of an import is sent again
_TRIES = 100  # so long is waited for the end of imports: five seconds
_tries: Counter[int] = Counter()


def unwind_on_signals() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt and SIGTERM Terminated in the main thread, after a running import.

    Inside an import the exception may be lost, come out as another error, or abort the process: so ended 4 of 150
    signals sent while torch was loading. Imports that last are waited for five seconds.

    A shell that starts a command in the background has it ignore Ctrl-C: that stays.
    """
    signal.signal(signal.SIGTERM, _unwind)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _unwind)


def ignore_signals() -> None:
    """Nothing is left to clean up: while Python closes, an exception would only be a traceback."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _unwind(number: int, frame: FrameType | None) -> None:
    if _importing(frame) and _tries[number] < _TRIES:
        _tries[number] += 1
        _send_again(number)
    else:
        raise _exception(number)


def _exception(number: int) -> KeyboardInterrupt:
    return Terminated() if number == signal.SIGTERM else KeyboardInterrupt()


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib."):
            return True
        frame = frame.f_back
    return False


def _send_again(number: int) -> None:
    """To whoever handles it then."""
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(number))
    signal.setitimer(signal.ITIMER_REAL, _SOON)


class StopRequest:
    """While active, a signal only sets `stop`; the loop looks at it after each step.

    While ``at_once`` is set nothing would be lost, as before the end of the first step: a signal then raises, so
    that nobody waits for a network to be compiled.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self.stop: KeyboardInterrupt | None = None
        self.at_once = at_once
        self._count = 0
        self._old: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in _BOTH:
            self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.at_once:
            _unwind(number, frame)
            return
        self._count += 1
        self.stop = _exception(number)
        if self._count >= _PATIENCE:
            raise self.stop
