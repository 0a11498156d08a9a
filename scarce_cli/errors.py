"""The errors a user can cause or meet, each with its exit code.

A message says what happened, to which file or value, and what to do next: one message, no traceback
(unless ``--debug``). Codes: 1 our bug, 2 usage or preset, 3 too many bad files, 4 unsafe input refused,
5 damaged data, 6 locked, 7 diverged, 8 resources or permissions, 9 collapsed (a verdict, not an error),
130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations


class ScarceError(Exception):
    """Something the user can act on. ``message`` says what happened to what; ``remedy`` what to do next."""

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(f"{message}\n{remedy}" if remedy else message)
        self.message = message
        self.remedy = remedy


class UsageError(ScarceError):
    """Wrong option, preset, file or state of a folder: nothing was started."""

    exit_code = 2


class TooManyBadFiles(ScarceError):
    """More unusable inputs than ``--max-bad`` allows."""

    exit_code = 3


class UnsafeInput(ScarceError):
    """Input that could do harm if it were opened: code in weights, a path out of its folder, a bomb."""

    exit_code = 4


class DamagedData(ScarceError):
    """Data that fails its own checks, with nothing good left to fall back on."""

    exit_code = 5


class Locked(ScarceError):
    """Another process is working in the same folder."""

    exit_code = 6


class Diverged(ScarceError):
    """Training produced non-finite numbers repeatedly."""

    exit_code = 7


class ResourceError(ScarceError):
    """Missing disk, memory, device or permission."""

    exit_code = 8


class OutOfMemory(ResourceError):
    """Not enough memory for the run's settings."""


class Collapsed(ScarceError):
    """The encoder does not tell films apart any more, or the run does not learn: a verdict, not a fault."""

    exit_code = 9


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised in the main thread so that it unwinds exactly like Ctrl-C; exit code 143."""


class Interrupted(ScarceError):
    """A long command was stopped by a signal and left everything in order; the message says how to go on."""

    def __init__(self, message: str, remedy: str = "", *, exit_code: int = 130) -> None:
        super().__init__(message, remedy)
        self.exit_code = exit_code

    @classmethod
    def by(cls, signal: KeyboardInterrupt, message: str, remedy: str = "") -> Interrupted:
        """The message for Ctrl-C (130) or SIGTERM (143), told apart by the exception that arrived."""
        return cls(message, remedy, exit_code=143 if isinstance(signal, Terminated) else 130)


def in_words(error: BaseException) -> str:
    """How something ended, for a report: the message alone, or the name of an error that we did not foresee."""
    if isinstance(error, ScarceError):
        return error.message
    return "stopped" if isinstance(error, KeyboardInterrupt) else f"failed: {type(error).__name__}"
