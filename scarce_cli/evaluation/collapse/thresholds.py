"""Where the verdict draws its lines: one table, each line with its reason and with what it was held against.

A rule asks for a line by its name. "Real films" are the chest X-rays that the CPU recipes were measured on; "published"
is the SCARCE-CXR series of five runs.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Threshold:
    """A line: shares are of 1, entropies are shares of ln K, progress is of the planned run."""

    name: str
    value: float
    reason: str
    measured: str  # what was seen on its two sides, or that nothing was


TABLE = (
    Threshold(
        "settled",
        0.03,
        "progress from which a failure is called by its state: before it, statistics of BatchNorm and queues fill up",
        "real films, 1,024 steps: running statistics hold after 50 steps, a queue of 2,048 keys after 64",
    ),
    Threshold(
        "learning",
        0.05,
        "progress by which something must have changed; a warm-up may take the first part of it",
        "real films: every CPU recipe has left its starting loss after 2 % of the run",
    ),
    Threshold(
        "bad steps",
        0.5,
        "share of steps whose loss was not finite: a scale of float16 that is being sought costs a few, not half",
        "real films: every step where films of a millionth of the usual std go through float16",
    ),
    Threshold(
        "exploded",
        10.0,
        "times the larger of the first loss and the blind values: no loss of ours passes its blind value for long",
        "real films: MoCo's loss rises to 2.3 times its first as the queue fills, and stays below ln(1 + K)",
    ),
    Threshold(
        "swollen",
        3.0,
        "the same, where it is only suspicious",
        "real films: the CPU recipes stay below 1.1",
    ),
    Threshold(
        "constant",
        0.01,
        "relative std: a mean cosine of .9999, films differ by less than float16 can tell",
        "real films: random networks .08 to .12, the CPU recipes .19 to .64",
    ),
    Threshold(
        "of random",
        0.5,
        "relative std over the random start's: training undid what a network tells apart by chance",
        "real films: the CPU recipes 2.2 to 6.9 times, published DINO 2.3 in its sixth epoch",
    ),
    Threshold(
        "nothing told",
        0.01,
        "teacher_information over ln K: every film gets the same answer",
        "published DINO on real films .007 in its first epoch and .0005 in its fifth; the CPU recipe never below .06",
    ),
    Threshold(
        "hardly anything told",
        0.002,
        "the same, so low that a rise is no recovery",
        "published DINO on real films reaches it in its third epoch",
    ),
    Threshold(
        "information rises",
        1.2,
        "times its lowest: a teacher that begins to tell films apart is left alone",
        "the CPU recipe from .36 to .64 nats within an epoch",
    ),
    Threshold("uniform", 0.97, "mean teacher entropy over ln K: all outputs alike", "published DINO .98 to .999"),
    Threshold(
        "one output",
        0.15,
        "mean teacher entropy over ln K: two or three outputs of some hundreds for all films, or one",
        "real films: DINO without centring 0 to .11 after 6 % of the run, in three runs; with it never below .9",
    ),
    Threshold(
        "entropy moves",
        0.03,
        "change of the mean teacher entropy since the start, over ln K, that shows which end it goes to",
        "published DINO on real films: +.04 in three epochs where it ended uniform, -.40 where it ended one-hot",
    ),
    Threshold(
        "exactly blind",
        1e-3,
        "distance of the loss from its blind value, and its spread: closer than learning ever stays",
        "real films: two views that are only to agree reach -1.0000 within 20 steps; the CPU recipes spread by .07 on",
    ),
    Threshold(
        "solved",
        0.9,
        "infonce_accuracy, in two readings in a row (against the first random keys it is 1)",
        "the CPU recipe .07 to .27",
    ),
    Threshold(
        "views found",
        0.2,
        "of what random features leave to be gained in finding a film's other view: a network that solves the task by "
        "the film gains more",
        "real films, 128 of them: .42 at the end of MoCo's CPU recipe",
    ),
    Threshold(
        "gap",
        0.4,
        "infonce_accuracy above the share of views found",
        "real films, 128 of them: -.32 at the end of MoCo's CPU recipe",
    ),
    Threshold(
        "few directions",
        0.1,
        "effective rank over its cap; never decides alone",
        "real films: the CPU recipes .23 to .50 with 128 films, .15 to .40 with 512",
    ),
    Threshold(
        "fewer than random",
        0.2,
        "effective rank over the random start's; never decides alone",
        "real films: the CPU recipes .37 to .86 with 128 films, .28 to .80 with 512: training concentrates features",
    ),
    Threshold(
        "copies",
        0.2,
        "mean square correlation between dimensions of the embedding: 0 decorrelated, 1 copies of each other",
        "the CPU recipe .14 at its worst moment in the first epoch, .03 at the end",
    ),
    Threshold(
        "copied",
        0.5,
        "the same, so large that it decides alone: what the loss is to decorrelate is one dimension, many times",
        "real films: without the loss's second term .76 after a tenth of the run; the CPU recipe below .14",
    ),
    Threshold("dead", 0.5, "share of dimensions that never change", "real films: 0 or 1 of 512, random networks too"),
    Threshold(
        "alike",
        0.95,
        "mean cosine from which films that grow alike are a failure of a loss that spreads them",
        "published DINO .974 to .978; other spreading runs .39 to .68",
    ),
    Threshold(
        "fade",
        0.95,
        "spread, rank and angle, all three, of their best before",
        "published DINO from its first row to its second: .94, .94, .92",
    ),
    Threshold(
        "shrunk",
        0.25,
        "raw std over its largest before",
        "published: .16 in the run whose author added a variance term, .33 and .71 in healthy ones",
    ),
    Threshold(
        "same features",
        0.05,
        "relative change of spread and rank that is no change, once running statistics hold",
        "real films, rate 0: spread .12 at the start and .31 after ten steps, by running statistics alone",
    ),
    Threshold(
        "same loss",
        0.005,
        "relative change of the loss that is no change, where its noise is smaller still",
        "real films: SparK's first steps 1.004, 1.003, 1.002",
    ),
    Threshold(
        "at blind",
        0.01,
        "distance of a scalar from that of a blind network, relative where this is above 1",
        "real films: SparK begins at 1.004 of 1, and is at .88 in its first epoch",
    ),
    Threshold(
        "noise",
        3.0,
        "standard errors of the loss that are no change",
        "by chance in one of 370 comparisons",
    ),
    Threshold("most noise", 0.05, "relative change of the loss that is one, however noisy it is", "not measured"),
)
_VALUES = {line.name: line.value for line in TABLE}


def limit(name: str) -> float:
    """The value of a line. KeyError for an unknown name."""
    return _VALUES[name]
