"""Weights & Biases when asked for: never a prompt, never in the way of the run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

Mode = Literal["online", "offline", "off"]
_TIMEOUT = 10  # seconds that starting may take


class Tracker:
    """Sends metrics to W&B. Whatever goes wrong there becomes one warning, and the run goes on without."""

    def __init__(self, mode: Mode, folder: Path, config: Mapping[str, Any], warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._run: Any = None
        if mode != "off":
            self._guard(lambda: self._start(mode, folder, config))

    def _start(self, mode: Mode, folder: Path, config: Mapping[str, Any]) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        if mode == "online" and not wandb.api.api_key:
            self._warn("W&B: no API key found (WANDB_API_KEY or 'wandb login'); recording offline instead")
            mode = "offline"
        self._run = wandb.init(
            project="scarce",
            name=folder.name,
            dir=str(folder),
            mode="online" if mode == "online" else "offline",
            config=dict(config),
            settings=wandb.Settings(init_timeout=_TIMEOUT, console="off", silent=True),
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """One set of metrics at ``step``."""
        if self._run is not None:
            self._guard(lambda: self._run.log(dict(values), step=step))

    def finish(self) -> None:
        """End of the run."""
        if self._run is not None:
            self._guard(self._run.finish)
            self._run = None

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # a service that fails must not cost the run
            self._run = None
            self._warn(f"W&B failed ({type(error).__name__}: {error}); metrics.jsonl goes on without it")
