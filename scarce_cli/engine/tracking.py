"""Weights & Biases when asked for: never a prompt, never in the way of the run."""

from __future__ import annotations

import contextlib
import json
import netrc
import os
import queue
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from scarce_cli.files import make_folder, write_json
from scarce_cli.runs import RunFolder

Mode = Literal["online", "offline", "off"]
_TIMEOUT = 10.0  # seconds that a run waits for W&B, all in all
_WAITING = 10_000  # sets of metrics that W&B may be behind
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Tracker:
    """Sends metrics to W&B. Whatever goes wrong or hangs there becomes one warning, and the run goes on without.

    A run that goes on is the same run there: its id is kept in the run's folder. Steps that were sent before and are
    taken again, because the run was rolled back, are not sent again.
    """

    def __init__(
        self, mode: Mode, folder: Path, config: Mapping[str, Any], warn: Callable[[str], None], *, logged: int = 0
    ) -> None:
        """Start unless ``mode`` is "off". Starting and finishing may take ten seconds together; logging never waits.

        Args:
            folder: of the run.
            logged: the last step that was logged before, also if the run was rolled back since
                (`scarce_cli.runs.MetricsLog.logged`).
        """
        self._warn = warn
        self._worker: _Worker | None = None
        self._run: Any = None
        self._sent = 0
        if mode != "off":
            self._worker = _Worker(_TIMEOUT)
            online = mode == "online" and self._may_log_in()
            self._guard(lambda worker: worker.ask(lambda: self._start(online, folder, config, logged)))

    def _may_log_in(self) -> bool:
        if _has_credentials():
            return True
        self._warn("W&B: no API key found (WANDB_API_KEY or 'wandb login'); recording offline instead")
        return False

    def _start(self, online: bool, folder: Path, config: Mapping[str, Any], logged: int) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        if not online:  # its own measurements and error reports ask the environment, not what init is told
            os.environ.update(WANDB_MODE="offline", WANDB_ERROR_REPORTING="false")
        import wandb

        name, self._sent = _identify(folder, logged)
        self._run = wandb.init(
            project="scarce",
            id=name,
            resume="allow",
            name=folder.name,
            dir=str(folder),
            mode="online" if online else "offline",
            config=dict(config),
            settings=wandb.Settings(init_timeout=_TIMEOUT, console="off", silent=True),
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """One set of metrics at ``step``."""
        if step > self._sent:
            sent = dict(values)
            self._guard(lambda worker: worker.tell(lambda: self._run.log(sent, step=step)))

    def finish(self) -> None:
        """End of the run."""
        self._guard(lambda worker: worker.ask(self._run.finish))
        if self._worker is not None:
            self._worker.leave()
            self._worker = None

    def _guard(self, action: Callable[[_Worker], object]) -> None:
        worker = self._worker
        if worker is None:
            return
        try:
            action(worker)
        except Exception as error:  # a service that fails must not cost the run
            self._worker = None
            worker.leave()
            self._warn(f"W&B failed ({type(error).__name__}: {error}); metrics.jsonl goes on without it")


def _identify(folder: Path, logged: int) -> tuple[str, int]:
    """The run's id at W&B, a new one if it has none, and the last step that may have been sent there."""
    path = RunFolder(folder).wandb
    with contextlib.suppress(OSError, ArithmeticError, LookupError, TypeError, ValueError):
        kept = json.loads(path.read_text("utf-8"))
        if _ID.fullmatch(kept["id"]):
            sent = max(int(kept["sent"]), logged)
            write_json(path, {"id": kept["id"], "sent": sent})
            return kept["id"], sent
    name = secrets.token_hex(4)
    make_folder(folder)
    write_json(path, {"id": name, "sent": 0})
    return name, 0


def _has_credentials() -> bool:
    """Whether W&B can log in without asking: with a key in the environment or one that 'wandb login' left."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    server = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(server) is not None
    except (OSError, netrc.NetrcParseError):
        return False


class _Worker:
    """A thread that does one thing after the other, until one fails; whoever waits for it waits ``seconds`` in all."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds
        self._actions: queue.Queue[tuple[Callable[[], Any], Future[None]] | None] = queue.Queue(_WAITING)
        self._over = threading.Event()
        self._failure: BaseException | None = None
        threading.Thread(target=self._work, daemon=True, name="wandb").start()

    def ask(self, action: Callable[[], Any]) -> None:
        """Do ``action`` after what was told before, and wait. Raises what failed, TimeoutError if time is over."""
        done = self.tell(action)
        start = time.monotonic()
        try:
            done.result(self._left)
        except TimeoutError:
            if done.done():
                raise
            raise TimeoutError(f"no answer within {_TIMEOUT:g} s") from None
        finally:
            self._left = max(0.0, self._left - (time.monotonic() - start))

    def tell(self, action: Callable[[], Any]) -> Future[None]:
        """Do ``action`` in its turn. Raises what failed earlier."""
        if self._failure is not None:
            raise self._failure
        done: Future[None] = Future()
        try:
            self._actions.put_nowait((action, done))
        except queue.Full:
            raise TimeoutError(f"{_WAITING} values are waiting") from None
        return done

    def leave(self) -> None:
        """Nothing more is to be done, whatever was told."""
        self._over.set()
        with contextlib.suppress(queue.Full):
            self._actions.put_nowait(None)  # wakes it

    def _work(self) -> None:
        while (item := self._actions.get()) is not None and not self._over.is_set():
            action, done = item
            if self._failure is not None:
                done.set_exception(self._failure)
                continue
            try:
                action()
            except BaseException as error:
                self._failure = error
                done.set_exception(error)
                _tear_down()
            else:
                done.set_result(None)


def _tear_down() -> None:
    """What W&B would do at the end of the process, where it would print a traceback if its service has crashed."""
    with contextlib.suppress(Exception):
        sys.modules["wandb"].teardown()
