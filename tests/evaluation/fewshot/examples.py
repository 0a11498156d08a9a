"""Results as a probe could find them, for the tests of what is said and drawn of them. All numbers are made up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from scarce_cli.evaluation.fewshot.episodes import Skipped
from scarce_cli.evaluation.fewshot.films import REST
from scarce_cli.evaluation.fewshot.result import (
    Bin,
    Calibration,
    Cases,
    CurvePoint,
    Difference,
    Estimate,
    Initialisation,
    MeanScore,
    Projection,
    Result,
    Score,
    Tested,
)

FINDINGS = ("Pneumonia", "Pleural effusion", "Hernia")
SHOTS = (1, 5, 10, 20, 50)
RANDOM, IMAGENET, DINO = "random", "imagenet", "dino epoch 20"
POSITIVES = {"Pneumonia": 61, "Pleural effusion": 38, "Hernia": 4}
HOSTILE = (
    '<script src="http://evil.invalid/x.js"></script>',
    '"><img src=\'http://evil.invalid/x.png\' onerror="alert(1)">',
    "=HYPERLINK(0)|[red]x[/red]",
    "gnp.\u202elatot \x1b[31m\x07\x00 line\nbreak",
    "+1;2\t3,4 'q' &amp; </style></td>",
    "@\udcff 肺炎 ١٢ $\\frac{a}{b$ %s {0}",
)
"""Names out of a table that a browser, a terminal, a spreadsheet or matplotlib could take for an order."""


def estimate(mean: float, half: float = 0.05, sd: float = 0.03) -> Estimate:
    """Within [-1, 1], the interval at most 1."""
    return Estimate(mean, sd, mean - half, min(1.0, mean + half))


def difference(baseline: str, gain: float, half: float, corrected: bool = True) -> Difference:
    """p falls with how far nought is outside the interval."""
    p = max(0.0005, min(1.0, math.exp(-2.5 * abs(gain) / half)))
    return Difference(baseline, estimate(gain, half), p, min(1.0, 2 * p) if corrected else None)


def auc_of(name: str, shots: int, finding: int = 0) -> float:
    """Rises with the number of shots; `DINO` above `IMAGENET` above `RANDOM`."""
    height = {RANDOM: 0.10, IMAGENET: 0.17, DINO: 0.27}.get(name, 0.2)
    return 0.5 + height * (1 + 0.15 * finding) * (1 - 0.75 * shots**-0.35)


def score(finding: str, name: str, shots: int, baselines: Sequence[str] = (), number: int = 0, **changed: Any) -> Score:
    """One line of the tables, with a difference to each of ``baselines``."""
    auc, half, enough = auc_of(name, shots, number), 0.08 / (1 + shots / 30), POSITIVES.get(finding, 40) >= 10
    gains = ((other, auc - auc_of(other, shots, number)) for other in baselines)
    made = Score(
        finding=finding, against=REST, initialisation=name, shots=shots, auc=estimate(auc, half * (1 if enough else 3)),
        average_precision=estimate(auc - 0.35, half), sensitivity_90=estimate(auc - 0.4, half),
        sensitivity_95=estimate(auc - 0.5, half), ppv_90=estimate(0.12, 0.03), ppv_95=estimate(0.17, 0.04),
        calibration=calibration(auc), differences=tuple(difference(o, g, half / 2, enough) for o, g in gains),
        c={"0.1": 6, "1": 4}, enough=enough,
    )  # fmt: skip
    return replace(made, **changed)


def calibration(auc: float) -> Calibration:
    """Overconfident: what is observed stays nearer to the prevalence than what is predicted."""
    bins = [Bin(p, 0.2 + (p - 0.2) * auc * 0.8, round(60 * (1.05 - p), 1)) for p in (0.05, 0.15, 0.3, 0.5, 0.7, 0.9)]
    return Calibration(0.25 - 0.1 * auc, 0.16, tuple(bins))


def mean_score(name: str, shots: int, findings: Sequence[str], baselines: Sequence[str] = ()) -> MeanScore:
    """Over findings with enough test patients."""
    auc, half = auc_of(name, shots, 0), 0.05 / (1 + shots / 30)
    gains = (difference(other, auc - auc_of(other, shots), half / 2, False) for other in baselines)
    return MeanScore(name, shots, tuple(findings), estimate(auc, half), estimate(auc - 0.3, half), tuple(gains))


def initialisations() -> tuple[Initialisation, ...]:
    """Random weights, ImageNet and one checkpoint."""
    return (
        Initialisation(RANDOM, "random", "", "", "resnet18", 64, "", None, 3),
        Initialisation(IMAGENET, "imagenet", "resnet18-imagenet.pth", "5c" * 32, "resnet18", 64, "", None, 1),
        Initialisation(DINO, "checkpoint", "runs/dino-l4/last.pt", "ab" * 32, "resnet18", 64, "dino", 20, 1),
    )


def tested(finding: str) -> Tested:
    """`POSITIVES` patients with the finding, 180 without."""
    n = POSITIVES.get(finding, 40)
    told = (f"the column source alone tells {finding} at an AUC of 0.58",) if finding == "Pneumonia" else ()
    return Tested(finding, REST, n + 7, 212, n, 180, n >= 10, {DINO: 12 if finding == "Pneumonia" else 0}, told)


def linear(findings: Sequence[str] = FINDINGS, shots: Sequence[int] = SHOTS, **changed: Any) -> Result:
    """A linear probe of three initialisations: each is compared with those before it."""
    names = (RANDOM, IMAGENET, DINO)
    lines = [(f, k, n, names[:i]) for f in findings for i, n in enumerate(names) for k in shots]
    enough = [f for f in findings if POSITIVES.get(f, 40) >= 10]
    made = Result(
        mode="linear",
        settings={"shots": list(shots), "draws": 10, "test_fraction": 0.2, "seed": 0, "stage": 4},
        labels="labels.csv",
        labels_sha256="cd" * 32,
        data={"folder": "films-64", "digest": "ef" * 32, "films": 6102, "labelled": 5856},
        episodes="episodes.json",
        episodes_sha256="01" * 32,
        initialisations=initialisations(),
        tested=tuple(tested(f) for f in findings),
        scores=tuple(score(f, n, k, others, findings.index(f) % 3) for f, k, n, others in lines),
        means=tuple(
            mean_score(n, k, enough, names[:i]) for i, n in enumerate(names) for k in shots if enough
        ),
        cases=(),
        skipped=(
            Skipped("Nodule", REST, None, "3 films have it; 6 are needed"),
            Skipped("Hernia", REST, 50, "only 41 training films have it"),
        ),
        caveats=("12 test films were in the pretraining set of dino epoch 20: its results may be too good",),
        prevalence=0.05,
        version="0.7.0",
    )  # fmt: skip
    return replace(made, **changed)


def case(finding: str, name: str, baselines: Sequence[str] = (), **changed: Any) -> Cases:
    """23 cases, a learning curve and where it leads."""
    top = auc_of(name, 50) + 0.05
    ns = (2, 4, 8, 12, 17, 22)
    curve = tuple(CurvePoint(n, top - 0.3 * n**-0.6, top - 0.3 * n**-0.6 - 0.25 * n**-0.5, top - 0.02) for n in ns)
    more = None if name == RANDOM else 31 if name == DINO else 210
    known = f"about {more} more cases" if more else "not within 500 more cases"
    ends = (12, 90) if name == DINO else (80, None) if more else (None, None)
    projection = Projection(
        0.8,
        top,
        0.3,
        0.6,
        more,
        *ends,
        500,
        f"{known} until the interval is above 0.8, if the curve goes on as it does",
    )
    made = Cases(
        finding=finding, against=REST, initialisation=name, cases=23, controls=40, films=71,
        auc=Estimate(top - 0.05, 0.0, top - 0.17, min(1.0, top + 0.06)), p=0.004 if name == DINO else 0.21,
            p_holm=0.004 if name == DINO else 0.21,
        shuffled=0.47, permutations=1000, curve=curve, projection=projection,
        differences=tuple(difference(o, auc_of(name, 50) - auc_of(o, 50), 0.12, False) for o in baselines), note="",
    )  # fmt: skip
    return replace(made, **changed)


def cases(findings: Sequence[str] = ("Callus rib fracture",), **changed: Any) -> Result:
    """``--cases``: every labelled case, each of three initialisations."""
    names = (RANDOM, IMAGENET, DINO)
    made = linear(
        findings, mode="cases", scores=(), means=(), tested=(), episodes="", episodes_sha256="", skipped=(),
        caveats=("23 cases are few: the interval is what counts",),
        cases=tuple(case(f, n, names[:i]) for f in findings for i, n in enumerate(names)),
    )  # fmt: skip
    return replace(made, **changed)


def everything() -> Result:
    """All that a report can hold at once."""
    return linear(cases=cases().cases)


def hostile() -> Result:
    """Every name is an order to somebody, and some numbers are not known."""
    names = dict(zip((RANDOM, IMAGENET, DINO), HOSTILE[:3], strict=True))
    one = everything()
    rows = tuple(
        replace(s, initialisation=names[s.initialisation],
                differences=tuple(replace(d, baseline=names[d.baseline]) for d in s.differences))
        for f in HOSTILE for s in linear((f,), (1, 5)).scores
    )  # fmt: skip
    unknown = Estimate(math.nan, math.nan, math.nan, math.inf)
    return replace(
        one,
        settings={name: name for name in HOSTILE},
        labels=HOSTILE[0],
        data={"folder": HOSTILE[1], "digest": HOSTILE[2], "films": 3, "labelled": 2},
        episodes=HOSTILE[1],
        initialisations=tuple(
            replace(i, name=names[i.name], path=f"{HOSTILE[0]}.pt", method=HOSTILE[1], backbone=HOSTILE[4])
            for i in one.initialisations
        ),
        tested=tuple(
            Tested(f, REST, 40, 90, 40, 80, True, {names[DINO]: 3}, (HOSTILE[0],)) for f in HOSTILE
        ),
        scores=(*rows[:-1], replace(rows[-1], sensitivity_90=unknown, ppv_90=None, calibration=None)),
        means=tuple(
            replace(m, initialisation=names[m.initialisation], findings=HOSTILE,
                    differences=tuple(replace(d, baseline=names[d.baseline]) for d in m.differences))
            for m in one.means
        ),
        cases=tuple(
            replace(c, finding=HOSTILE[0], against=HOSTILE[1], initialisation=names[c.initialisation], note=HOSTILE[2],
                    differences=tuple(replace(d, baseline=names[d.baseline]) for d in c.differences))
            for c in one.cases
        ),
        skipped=tuple(Skipped(f, HOSTILE[1], 5, HOSTILE[0]) for f in HOSTILE),
        caveats=HOSTILE,
        version=HOSTILE[0],
    )  # fmt: skip
