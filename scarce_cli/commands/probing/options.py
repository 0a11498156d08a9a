"""The options of ``scarce probe``, checked."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scarce_cli.errors import UsageError

if TYPE_CHECKING:
    from scarce_cli.commands.pretrain import Device

PUBLISHED = "published"
MOST_CASES = 200  # of --cases: the time grows with the cube, to a third of an hour for each encoder at this


@dataclass(frozen=True)
class Pick:
    """Which films, and which findings of them."""

    findings: tuple[str, ...]
    task: str | None
    against: str | None
    where: tuple[str, ...]
    same_film: str  # "refuse" | "join"
    seen: str  # "flag" | "leave-out" | "refuse"


@dataclass(frozen=True)
class Options:
    """All that was asked for."""

    checkpoints: tuple[Path, ...]
    labels: Path
    mode: str
    pick: Pick
    cases: int | None
    shots: tuple[int, ...]
    draws: int
    test_fraction: float
    episodes: Path | None
    min_patients: int
    imagenet: Path | None
    random: int
    prevalence: float | None
    c: float | None
    unfreeze: str | int
    stage: int
    seed: int
    data: Path | None
    out: Path | None
    max_bad: float
    device: Device | None

    def __post_init__(self) -> None:
        if self.c is not None and self.mode != "linear":
            raise UsageError(f"--c {self.c:g} has no effect with --mode {self.mode}", "it is of the linear probe")
        if self.unfreeze != PUBLISHED and self.mode != "finetune":
            raise UsageError(f"--unfreeze has no effect with --mode {self.mode}", "it says what --mode finetune trains")
        drawn = (*self.pick.findings, *([self.pick.against] if self.pick.against else []))
        if self.episodes and drawn:
            raise UsageError(
                f"--episodes {self.episodes} says which findings are tested; {', '.join(drawn)} was given too",
                "leave out --finding and --against, or --episodes",
            )
        if self.cases and (self.episodes or self.mode != "linear"):
            other = f"--episodes {self.episodes}" if self.episodes else f"--mode {self.mode}"
            raise UsageError(
                f"--cases {self.cases} and {other} do not go together",
                "--cases learns from and tests on all cases in turn, with the linear probe",
            )

    @property
    def folder(self) -> Path:
        """Where results go."""
        return self.out or self.checkpoints[0].parent / "probe"

    def as_plain(self) -> dict[str, Any]:
        """For the report: what was chosen, without what says where things are."""
        values = asdict(self)
        pick = values.pop("pick")
        for place in ("checkpoints", "labels", "data", "out", "device", "max_bad", "imagenet"):
            del values[place]
        values["episodes"] = str(self.episodes) if self.episodes else None
        return {**values, **pick, "max_bad": self.max_bad, "device": self.device.value if self.device else None}


def same_file(one: Path, other: Path) -> bool:
    """Whether both are there and are one file."""
    return one.exists() and other.exists() and one.samefile(other)


def parse_shots(text: str) -> tuple[int, ...]:
    """Ascending, distinct. UsageError for anything but whole numbers from 1."""
    try:
        numbers = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        numbers = ()
    if not numbers or numbers[0] < 1:
        raise UsageError(f"--shots {text}: not whole numbers from 1", "for example --shots 1,5,10")
    return numbers


def known_range(name: str, value: float | None, most: float = math.inf) -> float | None:
    """``value`` where it lies above 0 and below ``most``; UsageError elsewhere."""
    if value is not None and not 0 < value < most:
        limit = "above 0" if most == math.inf else f"between 0 and {most:g}"
        raise UsageError(f"{name} {value:g}: must be {limit}", f"for example {name} {'1' if most > 1 else '0.02'}")
    return value


def parse_unfreeze(text: str) -> str | int:
    """ "published", or the first part of the encoder that fine-tuning trains: 0 for "all", 1 to 4 a stage."""
    if text in (PUBLISHED, "all"):
        return PUBLISHED if text == PUBLISHED else 0
    if text in ("1", "2", "3", "4"):
        return int(text)
    raise UsageError(f"--unfreeze {text}: not published, all or a stage from 1 to 4", "for example --unfreeze 3")
