"""The command line itself: version, errors, exit codes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
import typer

from scarce_cli import __version__, cli
from scarce_cli.engine.signals import unwind_on_signals
from scarce_cli.errors import (
    DamagedData,
    Diverged,
    Locked,
    ResourceError,
    Terminated,
    TooManyBadFiles,
    UnsafeInput,
    UsageError,
)


def test_version_in_this_process_and_as_a_module(scarce: Callable, process: Callable) -> None:
    assert scarce("--version").out == f"scarce {__version__}\n"
    assert process("--version").out == f"scarce {__version__}\n"


def test_unknown_command_and_option_are_usage_errors(scarce: Callable) -> None:
    assert scarce("pretrian").code == 2
    assert "--epoch" in scarce("pretrain", "spark", "--epoch", 3).err


@pytest.mark.parametrize(
    ("kind", "code"),
    [(UsageError, 2), (TooManyBadFiles, 3), (UnsafeInput, 4), (DamagedData, 5), (Locked, 6), (Diverged, 7),
     (ResourceError, 8)],
)  # fmt: skip
def test_errors_become_one_message_with_remedy_and_code(
    kind: type, code: int, scarce: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(ctx: object) -> None:
        raise kind("what happened to [x]/file", "what to do")

    monkeypatch.setattr(typer.core.TyperGroup, "invoke", lambda self, ctx: fail(ctx))
    result = scarce("pretrain", "spark")
    assert result.code == code
    assert result.err == "scarce: what happened to [x]/file\nWhat to do: what to do\n"
    assert result.out == ""


def test_our_own_bug_is_code_1_without_traceback(scarce: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typer.core.TyperGroup, "invoke", lambda self, ctx: {}["missing"])
    result = scarce("pretrain", "spark")
    assert result.code == 1
    assert "KeyError" in result.err
    assert "Traceback" not in result.err


def test_debug_shows_the_traceback(scarce: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, ctx: object) -> None:
        raise UsageError("wrong", "right it")

    monkeypatch.setattr(typer.core.TyperGroup, "invoke", fail)
    result = scarce("--debug", "pretrain", "spark")
    assert result.code == 2
    assert "Traceback" in result.err
    assert "scarce: wrong" in result.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_any_command_with_their_code(
    number: int, code: int, scarce: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    unwind_on_signals()
    monkeypatch.setattr(typer.core.TyperGroup, "invoke", lambda self, ctx: os.kill(os.getpid(), number))
    try:
        assert scarce("pretrain", "spark").code == code
    finally:
        signal.signal(signal.SIGINT, old[0])
        signal.signal(signal.SIGTERM, old[1])


@pytest.mark.parametrize(("kind", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_a_signal_before_the_command_has_begun_is_its_code(
    kind: type[BaseException], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(prog_name: str) -> None:
        raise kind

    monkeypatch.setattr(cli, "unwind_on_signals", lambda: None)
    monkeypatch.setattr(cli, "app", interrupted)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == code
