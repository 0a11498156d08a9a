"""What a probe found: plain values, for the table, the files and the report. No number here is rounded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scarce_cli.evaluation.fewshot.episodes import Skipped


@dataclass(frozen=True)
class Estimate:
    """A mean over draws with its spread and its 95 % interval over draws and test patients."""

    mean: float
    sd: float  # over draws, unbiased; 0 for one draw
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """What an initialisation has over a baseline on the same films: paired."""

    baseline: str  # name of the other initialisation
    auc: Estimate  # difference of AUCs
    p: float | None  # two-sided, by exchange of the two within patients; None where that would not be valid
    p_holm: float | None  # corrected for the findings tested; None where the finding is left out of the mean


@dataclass(frozen=True)
class Bin:
    """One point of a reliability curve."""

    predicted: float  # mean probability of its films
    observed: float  # share of them with the finding
    films: int  # films of one draw, mean over draws


@dataclass(frozen=True)
class Calibration:
    """How far probabilities can be believed, at the prevalence of the test films."""

    brier: float  # mean squared error of the probability, 0 to 1; mean over draws
    brier_prevalence: float  # of a forecast that always says the prevalence
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class Score:
    """One finding, number of shots and initialisation."""

    finding: str
    against: str
    initialisation: str
    shots: int
    auc: Estimate
    average_precision: Estimate
    sensitivity_90: Estimate  # at a specificity of at least 90 %
    sensitivity_95: Estimate
    ppv_90: Estimate | None  # at the prevalence that the user gave
    ppv_95: Estimate | None
    calibration: Calibration | None  # None where the scores are no probabilities
    differences: tuple[Difference, ...]
    c: Mapping[str, int] | None  # how often each C was chosen, over draws and weights; None where none is
    enough: bool  # the finding has enough positive test patients to stand in the mean


@dataclass(frozen=True)
class MeanScore:
    """The mean over all findings that have enough test patients."""

    initialisation: str
    shots: int
    findings: tuple[str, ...]
    auc: Estimate
    average_precision: Estimate
    differences: tuple[Difference, ...]  # p by exchange in all findings at once; p_holm None


@dataclass(frozen=True)
class Tested:
    """What a finding is tested on."""

    finding: str
    against: str
    positives: int  # films
    negatives: int
    positive_patients: int
    negative_patients: int
    enough: bool
    seen: Mapping[str, int]  # initialisation -> test films of patients that it was pretrained on
    shortcuts: tuple[str, ...]  # what the table alone tells of the finding, in words


@dataclass(frozen=True)
class Initialisation:
    """One row of every table."""

    name: str
    kind: str  # "checkpoint" | "random" | "imagenet"
    path: str  # "" for random ones
    sha256: str  # of the file; "" for random ones
    backbone: str
    size: int  # px, side of the films it sees
    method: str  # "" for baselines
    epoch: int | None
    weights: int  # random weights that its scores are a mean over; 1 for all others


@dataclass(frozen=True)
class CurvePoint:
    """AUC when a part of the cases is learned from and the others are tested on."""

    cases: int  # patients with the finding that are learned from, and as many without
    auc: float  # mean over repeats
    low: float  # 95 % of the repeats lie between
    high: float


@dataclass(frozen=True)
class Projection:
    """How many more cases until the lower end of the 95 % interval of the AUC is above ``target``."""

    target: float
    a: float  # AUC(n) = a - b * n**-c: what it tends to
    b: float
    c: float
    more_cases: int | None  # None: not within `most`
    low: int | None  # 95 % interval of more_cases over refits; None: not within `most`
    high: int | None
    most: int  # further cases looked ahead to
    text: str  # in words


@dataclass(frozen=True)
class Cases:
    """One finding and initialisation, every labelled case used."""

    finding: str
    against: str
    initialisation: str
    cases: int  # patients with the finding
    controls: int  # patients without
    films: int
    auc: Estimate  # pairs of patients left out together; sd 0; interval over patients
    p: float  # one-sided: shuffled labels do as well
    p_holm: float  # corrected for the findings asked about
    shuffled: float  # mean AUC with shuffled labels
    permutations: int
    curve: tuple[CurvePoint, ...]
    projection: Projection | None  # None with the reason in `note`
    differences: tuple[Difference, ...]
    note: str


@dataclass(frozen=True)
class Result:
    """A whole call of ``scarce probe``."""

    mode: str  # "linear" | "finetune" | "knn" | "prototype" | "cases"
    settings: Mapping[str, Any]  # plain values, all that was chosen
    labels: str  # path of the table
    labels_sha256: str
    data: Mapping[str, Any]  # {"folder", "digest", "films", "labelled"}
    episodes: str  # file name of the episodes, beside the report; "" for cases
    episodes_sha256: str
    initialisations: tuple[Initialisation, ...]
    tested: tuple[Tested, ...]
    scores: tuple[Score, ...]
    means: tuple[MeanScore, ...]
    cases: tuple[Cases, ...]
    skipped: tuple[Skipped, ...]
    caveats: tuple[str, ...]  # what a reader must know, in words
    prevalence: float | None  # that the user gave
    version: str  # of scarce
