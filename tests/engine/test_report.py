"""A run's README: true, whole, and the same text whatever the names hold. Read by a Markdown parser and a shell."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from scarce_cli.engine.report import RunFacts, describe, write_readme
from scarce_cli.errors import ResourceError
from scarce_cli.runs import RunFolder

STEADY = settings(max_examples=150, deadline=None, derandomize=True)
HOSTILE = [
    "a`b``c", "`", "``", " a ", "a|b", "a\nb", "# x\n- y", "<script>alert(1)</script>", "[x](http://example.org)",
    "![x](y)", "**bold** _it_ ~~gone~~", "\\", "&amp;", "\x1b[31mred", "caf\udce9", "肺 炎", "$(rm -rf x)", "'; rm x #",
    "a\r\n\r\n## Owned", "\u202eevil", "-->", "",
]  # fmt: skip

FACTS = RunFacts(
    method="spark",
    preset="l4",
    backbone="resnet50",
    status="stopped after step 120 of 4000",
    step=120,
    total_steps=4000,
    scarce="0.4.0",
    torch="2.15.0+cu128",
    device="NVIDIA L4",
    precision="bf16",
    films=108_948,
    data=Path("films-256"),
    digest="0123abcd" * 8,
    size=224,
    epochs=200,
    batch=256,
    seed=7,
    parameters=25_600_000,
    seconds=7200.0,
    images_per_s=252.4,
    go_on=("scarce", "pretrain", "spark", "--preset", "l4", "--out", "runs/spark-l4", "--resume"),
    next=(("scarce", "monitor-collapse", "runs/spark-l4/last.pt"), ("scarce", "probe", "runs/spark-l4/last.pt")),
    dollars_per_hour=0.7,
    peak_bytes=3 * 2**29,
    bad_steps=3,
    last_epoch={"loss": 0.37091, "mean_cosine": math.nan},
)


def tokens(text: str) -> Iterator[Token]:
    """All of it, read as GitHub would."""
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text):
        yield token
        yield from token.children or ()


def contents(text: str, kind: str) -> list[str]:
    return [token.content for token in tokens(text) if token.type == kind]


def visible(name: str) -> str:
    """Our rule: what a terminal or the parser would act on stands as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def skeleton(text: str) -> list[tuple[str, str]]:
    """What the parser makes of it, names and numbers apart."""
    kept = {"text", "code_inline", "fence", "softbreak", "inline"}
    return [(token.type, token.tag) for token in tokens(text) if token.type not in kept]


def changed(**values: Any) -> RunFacts:
    return dataclasses.replace(FACTS, **values)


def test_it_says_what_the_run_was_what_it_cost_and_how_to_go_on() -> None:
    text = describe(FACTS)
    for wanted in (
        "# A run of spark, preset l4\n",
        "**For research. Not for diagnosis:**",
        "**State:** stopped after step 120 of 4000 (step 120 of 4,000).",
        "resnet50, 25.6 million weights trained, in bf16 on NVIDIA L4\n",
        f"108,948 at 224 px from `films-256`, digest `{'0123abcd' * 8}`",
        "200 epochs with batches of 256, 4,000 steps; seed 7",
        "scarce 0.4.0, torch 2.15.0+cu128",
        "so far: $1.40, 2.0 hours of training, all sessions together",
        "to come: about $45, 65 hours",  # 2 hours for 120 steps, 3,880 steps to go
        "price: $0.70 an hour",
        "speed: 252 images/s",
        "memory: 1.5 GiB at most",
        "last epoch: loss 0.3709, mean\\_cosine not finite",
        "left out: 3 steps whose loss or gradient was not finite (`skipped.jsonl`)",
        "![curves](curves.png)",
    ):
        assert wanted in text, wanted
    go_on, following = contents(text, "fence")
    assert go_on == "scarce pretrain spark --preset l4 --out runs/spark-l4 --resume\n"
    assert following == "scarce monitor-collapse runs/spark-l4/last.pt\nscarce probe runs/spark-l4/last.pt\n"


def test_what_is_not_known_is_not_said() -> None:
    text = describe(
        changed(
            dollars_per_hour=0.0, peak_bytes=None, images_per_s=math.nan, bad_steps=0, last_epoch={}, step=0, next=()
        )
    )
    for word in (
        "$",
        "price",
        "memory:",
        "speed",
        "nan",
        "left out",
        "to come",
        "Where it stands",
        "What is next",
        "![",
    ):
        assert word not in text, word
    assert len(contents(text, "fence")) == 1


def test_a_finished_run_has_nothing_to_go_on_with() -> None:
    text = describe(changed(step=4000, status="finished"))
    assert "--resume" not in text
    assert "to come" not in text
    assert "**State:** finished (step 4,000 of 4,000)." in text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (1, "1 s"),
        (89, "89 s"),
        (90, "2 min"),
        (5399, "90 min"),
        (5400, "1.5 hours"),
        (360_000, "100 hours"),
    ],
)
def test_time_is_said_in_fitting_units(seconds: float, words: str) -> None:
    assert f"so far: {words} of training" in describe(changed(seconds=seconds, dollars_per_hour=0.0))


def test_several_processes_are_said() -> None:
    assert "bf16 on NVIDIA L4, 8 processes" in describe(changed(processes=8))


def test_every_file_that_a_run_may_hold_is_explained() -> None:
    run = RunFolder(Path("r"))
    paths = (
        run.last, run.previous, run.settings, run.metrics, run.curves, run.skipped, run.tensorboard, run.wandb,
        run.snapshot(1).parent,
    )  # fmt: skip
    explained = " ".join(contents(describe(FACTS), "code_inline"))
    assert all(path.name in explained for path in paths)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_shown_and_do_nothing(name: str) -> None:
    text = describe(
        changed(
            method=name, preset=name, status=f"x{name}", device=f"x{name}", backbone=f"x{name}", torch=f"x{name}",
            data=Path("films", name), digest=name or "x", last_epoch={f"x{name}": 1.0},
        )
    )  # fmt: skip
    assert skeleton(text) == skeleton(describe(changed(last_epoch={"x": 1.0})))
    assert visible(str(Path("films", name))) in contents(text, "code_inline")
    shown = "".join(token.content for token in tokens(text) if token.type == "text")
    assert f"State:x{visible(name)} (step" in shown.replace("State: x", "State:x")
    assert all(c.isprintable() or c == "\n" for c in text)


@STEADY
@given(st.text(max_size=60))
def test_any_name_is_shown_and_does_nothing(name: str) -> None:
    text = describe(changed(device=f"x{name}x", data=Path(f"films/x{name}x"), last_epoch={f"x{name}x": 1.0}))
    assert skeleton(text) == skeleton(describe(changed(last_epoch={"x": 1.0})))
    assert visible(str(Path(f"films/x{name}x"))) in contents(text, "code_inline")
    assert f"on x{visible(name)}x" in "".join(contents(text, "text"))


def test_a_shell_reads_the_commands_as_they_were_meant() -> None:
    words = [name for name in HOSTILE if name] + ["plain", "two words", 'a"b', "a$b", "*", "~", "!!", "\t", "\x7f\x80"]
    text = describe(changed(go_on=("printf", r"%s\0", *words)))
    command = contents(text, "fence")[0]
    assert command.count("\n") == 1
    assert all(c.isprintable() for c in command[:-1])
    heard = subprocess.run(["bash", "-c", os.fsencode(command)], capture_output=True, check=True).stdout
    assert heard == b"".join(os.fsencode(word) + b"\0" for word in words)


def test_a_command_with_backticks_stays_in_its_block() -> None:
    text = describe(changed(go_on=("````",), next=(("```",),)))
    assert contents(text, "fence") == ["'````'\n", "'```'\n"]


def test_the_same_facts_give_the_same_file(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write_readme(run, FACTS)
    first = run.readme.read_bytes()
    write_readme(run, changed())
    assert run.readme.read_bytes() == first == describe(FACTS).encode()
    assert run.readme.name == "README.md"
    assert not re.search(rb"[ \t]\n|\n\n\n|\r", first)


def test_a_full_disk_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path)
    write_readme(run, FACTS)
    before = run.readme.read_bytes()
    monkeypatch.setattr("scarce_cli.files._fault_counts", Counter())
    monkeypatch.setenv("SCARCE_FAULT", "readme.pre_rename:1:enospc")
    with pytest.raises(ResourceError, match="the disk is full"):
        write_readme(run, changed(step=121))
    assert run.readme.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
