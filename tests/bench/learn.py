"""Does a method learn on real films? Pretrain, then measure every kept encoder beside random initialisation.

    python tests/bench/learn.py barlow --data films-128 --labels labels.csv --epochs 20 --every 5

Trains with the command line, then prints and saves (``learn.json``, ``learn.csv`` and ``learn.png`` in the run's
folder), for every kept epoch: loss and the method's own signals, collapse metrics, and the probe at 5, 20 and 50 shots
on tasks that stay inside one source and one resolution: (a) bacterial against viral pneumonia, children (Kermany);
(b) a finding against No Finding in NIH films of one collection. Every figure is a mean over several splits by patient
and draws; the interval of a difference is the mean of the splits' intervals, which is wider than that of their mean.
The picture shows the loss of every epoch too.

``--labels`` is the table of ../shared/cxr (columns image, patient_id, findings, source).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from scarce_cli.checkpoint import SavedEncoder, load_encoder
from scarce_cli.data.cache import Cache, open_cache
from scarce_cli.evaluation.collapse import collapse_metrics, l2_normalize
from scarce_cli.evaluation.features import extract_features, random_encoder, restore_encoder
from scarce_cli.evaluation.fewshot.drawing import draw_episodes
from scarce_cli.evaluation.fewshot.episodes import EpisodeSettings, Task
from scarce_cli.evaluation.fewshot.films import Films
from scarce_cli.evaluation.fewshot.linear import score_linear
from scarce_cli.evaluation.fewshot.resample import Resampler, Sampled, difference, estimate, sample

Labelled = Mapping[str, tuple[Films, NDArray[np.int64]]]  # by source: its labelled films, and their rows in the cache
COLUMNS = ("epoch", "question", "stage", "shots", "auc", "random", "gain", "low", "high")


@dataclass(frozen=True)
class Question:
    """A finding against a negative, inside one source."""

    name: str
    source: str  # part of the table's source column
    finding: str
    negative: str


QUESTIONS = (
    Question("a: bacterial/viral", "Kermany", "Bacterial pneumonia", "Viral pneumonia"),
    Question("b: NIH pneumonia", "muhammedtalo", "Pneumonia", "No Finding"),
    Question("b: NIH infiltration", "muhammedtalo", "Infiltration", "No Finding"),
    Question("b: NIH effusion", "muhammedtalo", "Effusion", "No Finding"),
)


def main() -> None:
    """Train unless ``--run`` names a finished run; then measure."""
    options = _options()
    torch.set_num_threads(options.threads)
    cache = open_cache(options.probe_data or options.data)
    labelled = _labelled(options.labels, cache)
    run = options.run or _train(options)
    result = measure(run, cache, labelled, options)
    (run / "learn.json").write_text(json.dumps(result, indent=1))
    _write_table(result, run / "learn.csv")
    _draw(result, run / "learn.png")
    print(table(result))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method")
    parser.add_argument("--data", type=Path, required=True, help="prepared data set to train on")
    parser.add_argument("--probe-data", type=Path, help="prepared data set of the labelled films; default: --data")
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--every", type=int, default=5, help="epochs between two measurements")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--out", type=Path, help="run folder; default: runs/learn-METHOD")
    parser.add_argument("--run", type=Path, help="measure this run and train nothing")
    parser.add_argument("--stages", type=int, nargs="+", default=[4], help="of the encoder, probed one by one")
    parser.add_argument("--splits", type=int, default=3, help="splits by patient")
    parser.add_argument("--shots", type=int, nargs="+", default=[5, 20, 50])
    parser.add_argument("--films", type=int, default=2048, help="for the collapse metrics")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def _train(options: argparse.Namespace) -> Path:
    out: Path = options.out or Path("runs") / f"learn-{options.method}"
    settings = [*options.settings, f"run.snapshot_epochs={options.every}"]
    settings += [f"run.epochs={options.epochs}"] if options.epochs else []
    command = [sys.executable, "-m", "scarce_cli", "pretrain", options.method, "--preset", options.preset]
    command += ["--data", str(options.data), "--out", str(out), *[p for s in settings for p in ("--set", s)]]
    command += ["--device", options.device]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": str(options.threads)})
    return out


def measure(run: Path, cache: Cache, labelled: Labelled, options: argparse.Namespace) -> dict[str, Any]:
    """All kept encoders of a run; the random one they started from comes first."""
    saved = [load_encoder(path) for path in sorted((run / "encoders").glob("epoch-*.pt"))]
    random = _features(None, saved[0], cache, options)
    rows = [_row(0, {}, random, random, {}, options)]
    epochs = _epochs(run)
    for one in saved:
        rows.append(_row(one.epoch, epochs.get(one.epoch, {}), _features(one, one, cache, options), random, labelled,
                         options))  # fmt: skip
        print(table({"method": options.method, "run": str(run), "rows": [rows[0], rows[-1]]}), flush=True)
    losses = {epoch: line["loss"] for epoch, line in epochs.items()}
    return {"method": options.method, "run": str(run), "films": len(cache.names), "losses": losses, "rows": rows}


def _epochs(run: Path) -> dict[int, dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {int(line["epoch"]): line for line in lines if line["kind"] == "epoch"}


def _labelled(path: Path, cache: Cache) -> Labelled:
    """Ends the program when no film of the cache has a label that a question asks for."""
    numbers = {Path(name).stem: row for row, name in enumerate(cache.names)}
    found: dict[str, list[tuple[int, str, frozenset[str]]]] = defaultdict(list)
    with path.open(newline="") as handle:
        for line in csv.DictReader(handle):
            row = numbers.get(Path(line["image"]).stem)
            for source in {question.source for question in QUESTIONS if row is not None}:
                if source in line["source"]:
                    assert row is not None
                    found[source].append((row, line["patient_id"], frozenset(line["findings"].split("|"))))
    if not found:
        sources = ", ".join(sorted({question.source for question in QUESTIONS}))
        raise SystemExit(
            f"{path}: none of the {len(cache.names)} prepared films has a line with one of these sources: {sources}. "
            "Give --labels the table that belongs to --probe-data (or to --data, without it)."
        )
    return {
        source: (
            _films([(cache.names[row], patient, names) for row, patient, names in films]),
            np.array([r for r, _, _ in films]),
        )
        for source, films in found.items()
    }


def _films(described: Sequence[tuple[str, str, frozenset[str]]]) -> Films:
    names, patients, findings = zip(*described, strict=True)
    return Films(names, patients, findings, ("",) * len(names), ("",) * len(names))


def _features(
    one: SavedEncoder | None, like: SavedEncoder, cache: Cache, options: argparse.Namespace
) -> dict[int, NDArray[np.float32]]:
    """By stage, of all films of the cache."""
    encoder = random_encoder(like) if one is None else restore_encoder(one)
    rows, device = np.arange(len(cache.names)), torch.device(options.device)
    return {stage: extract_features(encoder, like.info, cache, rows, device, stage=stage) for stage in options.stages}


def _row(
    epoch: int,
    logged: Mapping[str, float],
    features: Mapping[int, NDArray[np.float32]],
    random: Mapping[int, NDArray[np.float32]],
    labelled: Labelled,
    options: argparse.Namespace,
) -> dict[str, Any]:
    last = features[max(features)]
    sample = np.random.default_rng(0).permutation(len(last))[: options.films]
    metrics = collapse_metrics(last[sample])
    probes = [
        {"question": question.name, "stage": stage, **result}
        for question in QUESTIONS
        for stage in features
        if question.source in labelled  # nothing to compare the random encoder with
        for result in _probe(question, features[stage], random[stage], labelled, options)
    ]
    collapse = {
        "relative_std": metrics.relative_std,
        "mean_cosine": metrics.mean_cosine,
        "effective_rank": metrics.effective_rank,
    }
    return {"epoch": epoch, "logged": dict(logged), "collapse": collapse, "probe": probes}


def _probe(
    question: Question,
    features: NDArray[np.float32],
    random: NDArray[np.float32],
    labelled: Labelled,
    options: argparse.Namespace,
) -> list[dict[str, float]]:
    films, rows = labelled[question.source]
    found: dict[int, list[tuple[float, float, float, float, float]]] = defaultdict(list)
    for seed in range(options.splits):
        settings = EpisodeSettings(shots=tuple(options.shots), seed=seed)
        for task in draw_episodes(films, [question.finding], question.negative, settings).tasks:
            resampler = Resampler.make(films.patient_numbers(), task.test, settings.draws, 100, seed)
            for shots in task.supports:
                before, after = (_sampled(x[rows], films, task, shots, resampler) for x in (random, features))
                gain = difference(after, before, "auc")
                aucs = estimate(before, "auc").mean, estimate(after, "auc").mean
                found[shots].append((*aucs, gain.mean, gain.low, gain.high))
    return [
        dict(zip(("shots", "random", "auc", "gain", "low", "high"), (shots, *np.mean(v, axis=0).tolist()), strict=True))
        for shots, v in found.items()
    ]


def _sampled(x_FD: NDArray[np.float32], films: Films, task: Task, shots: int, resampler: Resampler) -> Sampled:
    unit = l2_normalize(x_FD.astype(np.float64))
    scores, _ = score_linear(unit, task.supports[shots], task.test, films.patient_numbers())
    return sample(scores[None], task.labels, task.test, resampler)


def table(result: Mapping[str, Any]) -> str:
    """Plain text, one line for each epoch."""
    lines = [f"{result['method']}  {result['run']}"]
    for row in result["rows"]:
        logged = ", ".join(f"{k} {v:.3f}" for k, v in row["logged"].items() if k not in _NOT_SHOWN)
        c = row["collapse"]
        rank = "undefined" if c["effective_rank"] is None else f"{c['effective_rank']:.0f}"
        lines.append(
            f"epoch {row['epoch']}: std {c['relative_std']:.3f} cos {c['mean_cosine']:.3f} rank {rank}; {logged}"
        )
        for question in dict.fromkeys((p["question"], p["stage"]) for p in row["probe"]):
            lines.append("   " + _line(question, [p for p in row["probe"] if (p["question"], p["stage"]) == question]))
    return "\n".join(lines)


_NOT_SHOWN = ("kind", "time", "step", "epoch", "images_per_s", "lr", "relative_std", "mean_cosine")


def _line(question: tuple[str, int], probes: Sequence[Mapping[str, float]]) -> str:
    cells = [
        f"{p['shots']:.0f}: {p['auc']:.3f} (random {p['random']:.3f}, "
        f"{p['gain']:+.3f} [{p['low']:+.2f}, {p['high']:+.2f}])"
        for p in probes
    ]
    return f"{question[0]} stage {question[1]}  " + "  ".join(cells)


def _write_table(result: Mapping[str, Any], path: Path) -> None:
    """One line for each epoch, question, stage and number of shots."""
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS)
        writer.writeheader()
        writer.writerows({"epoch": row["epoch"], **probe} for row in result["rows"] for probe in row["probe"])


def _draw(result: Mapping[str, Any], path: Path) -> None:
    """Gain over random initialisation against epochs, one panel for each question, and the loss in the last panel."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    keys = list(dict.fromkeys((p["question"], p["stage"]) for p in result["rows"][-1]["probe"]))
    figure, panels = plt.subplots(1, len(keys) + 1, figsize=(4 * (len(keys) + 1), 3.5), squeeze=False)
    for panel, (question, stage) in zip(panels[0], keys, strict=False):
        _draw_gains(panel, result, question, stage)
        panel.sharey(panels[0][0])
    for panel in panels[0][1 : len(keys)]:
        panel.tick_params(labelleft=False)
    if keys:
        panels[0][0].set_ylabel("AUC above random initialisation")
        panels[0][0].legend()
    panels[0][-1].plot(list(result["losses"]), list(result["losses"].values()), color="black")
    panels[0][-1].set(title="loss of pretraining", xlabel="epoch", ylabel="mean of the epoch")
    for panel in panels[0]:
        panel.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _draw_gains(panel: Any, result: Mapping[str, Any], question: str, stage: int) -> None:
    """One line for each number of shots."""
    for shots in dict.fromkeys(p["shots"] for p in result["rows"][-1]["probe"]):
        points = [
            (row["epoch"], p["gain"])
            for row in result["rows"]
            for p in row["probe"]
            if (p["question"], p["stage"], p["shots"]) == (question, stage, shots)
        ]
        if points:
            panel.plot(*zip(*points, strict=True), marker="o", label=f"{shots:.0f} shots")
    panel.axhline(0.0, color="grey", linewidth=1)
    panel.set(title=f"{question}, stage {stage}", xlabel="epoch")


if __name__ == "__main__":
    main()
