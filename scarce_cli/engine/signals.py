"""Ctrl-C and SIGTERM during training: finish the step, save, then stop."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

from scarce_cli.errors import Terminated

_PATIENCE = 3  # the third signal stops at once, whatever is being written


class StopRequest:
    """While active, a signal only sets `stop`; the loop looks at it after each step."""

    def __init__(self) -> None:
        self.stop: KeyboardInterrupt | None = None
        self._count = 0
        self._old: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        self.stop = Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
        if self._count >= _PATIENCE:
            raise self.stop
