"""What a run's README is told by the run itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from scarce_cli.engine.seen import Seen
from scarce_cli.engine.start import build_state


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({}, ""),
        ({"tensorboard": True}, " --tensorboard"),
        ({"wandb": "offline"}, " --wandb offline"),
        ({"tensorboard": True, "wandb": "online"}, " --tensorboard --wandb online"),
    ],
)
def test_the_command_to_go_on_records_where_the_run_did(make_job: Callable, how: dict[str, Any], words: str) -> None:
    job = make_job(**how)
    Seen(job, build_state(job), 12, pytest.fail).ended("stopped")
    text = job.run.readme.read_text("utf-8")
    assert f"--out runs/a --resume{words}\n```" in text
