"""A run's README.md: what it was, what it cost, how to go on and what to do next, for whoever finds the folder."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scarce_cli.engine.price import bytes_in_words, dollars, hours
from scarce_cli.files import write_text
from scarce_cli.runs import RunFolder

_WARNING = (
    "**For research. Not for diagnosis:** nothing here is a medical device, and no output may guide the care of a "
    "patient."
)
_MARKUP = re.compile(r"([\\`*_\[\]<>&|~#])")
_FILES = (
    ("last.pt", "the newest checkpoint: the encoder, and everything to go on from"),
    ("previous.pt", "the one before it, for when the newest is damaged"),
    ("*.sha256", "what each checkpoint is checked against before it is used"),
    ("encoders/", "the encoder alone, kept now and then: `monitor-collapse` draws its curve from them"),
    ("settings.yaml", "all settings, and a recipe that repeats the run"),
    ("metrics.jsonl", "what was logged: one JSON object a line, of steps and of epochs"),
    ("curves.png", "the numbers as curves, drawn again after epochs and at the end"),
    ("skipped.jsonl", "steps that could not be taken, with their films; only where there were any"),
    ("tensorboard/, wandb/, wandb.json", "the same numbers for those who asked for them"),
)


@dataclass(frozen=True)
class RunFacts:
    """All that the README says."""

    method: str
    preset: str
    backbone: str
    status: str  # in words: "training", "finished", "stopped after step 120 of 4000; ..."
    step: int  # done
    total_steps: int
    scarce: str  # version
    torch: str  # version
    device: str  # "NVIDIA L4", "cpu"
    precision: str
    films: int
    data: Path  # folder of the prepared films
    digest: str  # SHA-256 of what was read from it
    size: int  # px
    epochs: int
    batch: int  # films a step, of all processes together
    seed: int
    parameters: int  # trained
    seconds: float  # of training, over all sessions
    images_per_s: float  # NaN: not measured yet
    go_on: Sequence[str]  # words of the command that goes on
    next: Sequence[Sequence[str]]  # commands for what can be done with the run
    processes: int = 1
    dollars_per_hour: float = 0.0  # of all processes together; 0: not known
    peak_bytes: int | None = None  # of the device's memory
    bad_steps: int = 0
    verdict: str = ""  # of the last look at the encoder; "": none yet
    last_epoch: Mapping[str, float] = field(default_factory=dict)  # name -> mean over the last whole epoch


def write_readme(run: RunFolder, facts: RunFacts) -> None:
    """Replace the README of ``run``, whole or not at all. The same facts give the same text. Raises ResourceError."""
    write_text(run.readme, describe(facts), label="readme")


def describe(facts: RunFacts) -> str:
    """The README in Markdown, whatever the names hold."""
    parts = [
        f"# A run of {_text(facts.method)}, preset {_text(facts.preset)}",
        _WARNING,
        f"**State:** {_text(facts.status)} (step {facts.step:,} of {facts.total_steps:,}).",
        *_part("What it is", _settings(facts)),
        *_part("What it cost", _costs(facts)),
        *_part("Where it stands", _results(facts)),
        *(["![curves](curves.png)"] if facts.last_epoch else []),
        *_commands(facts),
        *_part("Files", [f"{_code(name)}: {what}" for name, what in _FILES]),
    ]
    return "\n\n".join(parts) + "\n"


def _part(title: str, items: Iterable[str]) -> list[str]:
    listed = "\n".join(f"- {item}" for item in items)
    return [f"## {title}", listed] if listed else []


def _settings(facts: RunFacts) -> list[str]:
    where = _text(facts.device) + (f", {facts.processes} processes" if facts.processes > 1 else "")
    return [
        f"network: {_text(facts.backbone)}, {facts.parameters / 1e6:.1f} million weights trained, in "
        f"{_text(facts.precision)} on {where}",
        f"films: {facts.films:,} at {facts.size} px from {_code(facts.data)}, digest {_code(facts.digest)}",
        f"length: {_count(facts.epochs, 'epoch')} with batches of {facts.batch:,}, {facts.total_steps:,} steps; "
        f"seed {facts.seed}",
        f"scarce {_text(facts.scarce)}, torch {_text(facts.torch)}",
    ]


def _costs(facts: RunFacts) -> list[str]:
    items = [f"so far: {_spent(facts.seconds, facts)} of training, all sessions together"]
    left = facts.total_steps - facts.step
    if left and facts.step:
        items.append(f"to come: about {_spent(facts.seconds / facts.step * left, facts)}")
    if facts.dollars_per_hour:
        items.append(f"price: ${facts.dollars_per_hour:.2f} an hour")
    if math.isfinite(facts.images_per_s):
        items.append(f"speed: {facts.images_per_s:,.0f} images/s")
    if facts.peak_bytes is not None:
        items.append(f"memory: {bytes_in_words(facts.peak_bytes)} at most")
    return items


def _spent(seconds: float, facts: RunFacts) -> str:
    time = seconds / 3600
    return (f"{dollars(time * facts.dollars_per_hour)}, " if facts.dollars_per_hour else "") + hours(time)


def _results(facts: RunFacts) -> list[str]:
    means = ", ".join(f"{_text(name)} {_number(value)}" for name, value in facts.last_epoch.items())
    items = [f"last epoch: {means}"] if means else []
    if facts.verdict:
        items.append(f"the encoder: {_text(facts.verdict)}")
    if facts.bad_steps:
        skipped = _count(facts.bad_steps, "step")
        items.append(f"left out: {skipped} whose loss or gradient was not finite (`skipped.jsonl`)")
    return items


def _commands(facts: RunFacts) -> list[str]:
    parts = []
    if facts.step < facts.total_steps:
        parts += ["## Go on where it stopped", _block([facts.go_on])]
    return [*parts, "## What is next", _block(facts.next)] if facts.next else parts


def _count(number: int, unit: str) -> str:
    return f"{number:,} {unit}{'' if number == 1 else 's'}"


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "not finite"


def _one_line(text: str) -> str:
    """Control characters, line breaks and bytes that are not UTF-8 as ``\\x1b``."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _text(text: str) -> str:
    """Shown as it is, whatever it would mean in Markdown."""
    return _MARKUP.sub(r"\\\1", _one_line(text))


def _code(name: str | Path) -> str:
    """A name as code, between more backticks than it has in a row."""
    text = _one_line(str(name)) or "(empty)"
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if text[0] in "` " or text[-1] in "` " else ""
    return f"{fence}{space}{text}{space}{fence}"


def _block(commands: Iterable[Sequence[str]]) -> str:
    """Commands as code. No line can end the block: words with backticks are quoted, also the first of a line."""
    return "\n".join(("```", *(" ".join(map(_word, command)) for command in commands), "```"))


def _word(word: str) -> str:
    """One word for a shell, on one line and without what a terminal would obey."""
    if word.isprintable():
        return shlex.quote(word)
    shown = (chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\x{byte:02x}" for byte in os.fsencode(word))
    return f"$'{''.join(shown)}'"
