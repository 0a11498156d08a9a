"""One thin file per sub-command: parse, load, call, print. The table is the program's list of commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scarce_cli.commands.cache import cache
from scarce_cli.commands.demo import demo
from scarce_cli.commands.monitor_collapse import monitor_collapse
from scarce_cli.commands.preprocess import preprocess
from scarce_cli.commands.pretrain import pretrain
from scarce_cli.commands.probe import probe
from scarce_cli.commands.visualize import visualize

TABLE: tuple[tuple[str, Callable[..., Any], str], ...] = (
    ("preprocess", preprocess, "scarce preprocess --src nih/ --size 256"),
    ("cache", cache, "scarce cache nih-256"),
    ("pretrain", pretrain, "scarce pretrain spark --preset l4"),
    ("monitor-collapse", monitor_collapse, "scarce monitor-collapse runs/spark-l4/last.pt"),
    ("probe", probe, "scarce probe runs/spark-l4/last.pt --labels labels.csv"),
    ("visualize", visualize, "scarce visualize spark runs/spark-l4/last.pt"),
    ("demo", demo, "scarce demo --out scarce-demo"),
)
