"""What a run needs and what it will cost, from a few measured steps."""

from __future__ import annotations

from dataclasses import dataclass

_ROOM = 0.95  # of the memory that may be used: fragments, and the batch that needs a little more, take the rest


@dataclass(frozen=True)
class Estimate:
    """Measured on this machine, and what follows for the whole run."""

    parameters: int  # trained
    peak_bytes: int  # of memory while training
    memory_bytes: int  # that there are: of the GPU, or of the machine
    images_per_s: float  # films, of all GPUs together
    films_left: int  # to go through after the steps measured, every epoch counted
    seconds_before: float  # of training until the end of what was measured
    dollars_per_hour: float  # of all GPUs together; 0: not known
    checkpoint_bytes: int  # of one checkpoint that a run goes on from
    encoder_bytes: int  # of one encoder kept apart
    encoders: int  # that will be kept

    @property
    def hours(self) -> float:
        """Of the whole run, what is behind it included."""
        return (self.seconds_before + self.films_left / self.images_per_s) / 3600

    @property
    def dollars(self) -> float:
        """Of the whole run; 0 when no price is known."""
        return self.hours * self.dollars_per_hour

    @property
    def disk_bytes(self) -> int:
        """Newest and previous checkpoint, one that is being written, and the encoders."""
        return 3 * self.checkpoint_bytes + self.encoders * self.encoder_bytes

    @property
    def fits(self) -> bool:
        """Whether the memory will do, with a little room."""
        return self.peak_bytes <= _ROOM * self.memory_bytes
