"""Weights & Biases when asked for: never a prompt, never in the way of the run."""

from __future__ import annotations

import netrc
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

Mode = Literal["online", "offline", "off"]
_TIMEOUT = 10.0  # seconds that starting, one call or finishing may take


class Tracker:
    """Sends metrics to W&B. Whatever goes wrong or hangs there becomes one warning, and the run goes on without."""

    def __init__(self, mode: Mode, folder: Path, config: Mapping[str, Any], warn: Callable[[str], None]) -> None:
        """Start, within ten seconds, unless ``mode`` is "off"."""
        self._warn = warn
        self._run: Any = None
        if mode != "off":
            self._run = self._guard(lambda: self._start(mode, folder, config))

    def _start(self, mode: Mode, folder: Path, config: Mapping[str, Any]) -> Any:
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        if mode == "online" and not _has_credentials():
            self._warn("W&B: no API key found (WANDB_API_KEY or 'wandb login'); recording offline instead")
            mode = "offline"
        return wandb.init(
            project="scarce",
            name=folder.name,
            dir=str(folder),
            mode="online" if mode == "online" else "offline",
            config=dict(config),
            settings=wandb.Settings(init_timeout=_TIMEOUT, console="off", silent=True),
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """One set of metrics at ``step``."""
        run = self._run
        if run is not None:
            self._guard(lambda: run.log(dict(values), step=step))

    def finish(self) -> None:
        """End of the run."""
        run, self._run = self._run, None
        if run is not None:
            self._guard(run.finish)

    def _guard(self, action: Callable[[], Any]) -> Any:
        try:
            return _within(_TIMEOUT, action)
        except Exception as error:  # a service that fails must not cost the run
            self._run = None
            self._warn(f"W&B failed ({type(error).__name__}: {error}); metrics.jsonl goes on without it")
            return None


def _has_credentials() -> bool:
    """Whether W&B can log in without asking: with a key in the environment or one that 'wandb login' left."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    server = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(server) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _within(seconds: float, action: Callable[[], Any]) -> Any:
    """The result of ``action``; TimeoutError when it takes longer (its thread is then left behind)."""
    outcome: Future[Any] = Future()

    def work() -> None:
        try:
            outcome.set_result(action())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=work, daemon=True, name="wandb").start()
    try:
        return outcome.result(seconds)
    except TimeoutError:
        if outcome.done():
            raise
        raise TimeoutError(f"no answer within {seconds:g} s") from None
