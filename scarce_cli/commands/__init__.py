"""One thin file per sub-command: parse, load, call, print. The table is the program's list of commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scarce_cli.commands.cache import cache
from scarce_cli.commands.preprocess import preprocess

TABLE: tuple[tuple[str, Callable[..., Any], str], ...] = (
    ("preprocess", preprocess, "scarce preprocess --src nih/ --size 256"),
    ("cache", cache, "scarce cache nih-256"),
)
