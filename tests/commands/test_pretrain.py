"""``scarce pretrain`` as a user meets it: files left, messages, codes, stops by signal."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from scarce_cli import checkpoint
from scarce_cli.commands.training_view import TrainingView
from scarce_cli.config import RunConfig
from scarce_cli.files import folder_lock, sha256
from scarce_cli.methods import TABLE
from scarce_cli.presets import load_preset, validate
from scarce_cli.runs import read_metrics

ROOT = Path(__file__).parents[2]
TINY = ("--set", "run.epochs=1", "--set", "run.batch_size=24", "--set", "run.snapshot_epochs=5")  # two steps


@pytest.fixture(autouse=True)
def _leaves_no_runs(tmp_path: Path) -> Iterator[None]:
    yield
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)


@pytest.fixture
def pretrain(scarce: Callable, dataset: Path) -> Callable[..., Any]:
    """``scarce pretrain spark --preset smoke`` on the shared data set, with more arguments."""
    return lambda *more: scarce("pretrain", "spark", "--preset", "smoke", "--data", dataset, *more)


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_run_leaves_exactly_these_files_and_says_what_is_next(pretrain: Callable, dataset: Path) -> None:
    result = pretrain(*TINY)
    assert result.code == 0, result.err
    run = Path("runs/spark-smoke")
    names = [".lock", "README.md", "curves.png", "encoders/epoch-0001.pt", "encoders/epoch-0001.pt.sha256"]
    names += ["last.pt", "last.pt.sha256"]
    assert _files(Path()) == [f"{run}/{name}" for name in [*names, "metrics.jsonl", "settings.yaml"]]
    kinds = [line["kind"] for line in read_metrics(run / "metrics.jsonl")]
    assert kinds == ["random", "collapse", "step", "collapse", "step", "collapse", "epoch"]
    assert checkpoint.load_encoder(run / "last.pt").data["folder"] == str(dataset)
    assert result.out.splitlines() == [
        "Done. Checkpoint: runs/spark-smoke/last.pt",
        "  scarce monitor-collapse runs/spark-smoke/last.pt",
        "  scarce probe runs/spark-smoke/last.pt --labels labels.csv",
        "  scarce visualize spark runs/spark-smoke/last.pt",
    ]
    assert f"48 films of {dataset}, 1 epoch, batch 24, 2 steps; run runs/spark-smoke" in result.err
    assert re.search(r"^epoch 1/1: loss \d\.\d{4}, mean cosine .*, \d+ images/s$", result.err, re.M)
    assert "\x1b" not in result.out + result.err


def test_the_only_data_set_here_is_found(scarce: Callable, dataset: Path) -> None:
    os.symlink(dataset, "films-32")
    result = scarce("pretrain", "spark", "--preset", "smoke", *TINY)
    assert result.code == 0, result.err
    assert "48 films of films-32" in result.err


def test_the_saved_settings_repeat_the_run(pretrain: Callable, scarce: Callable, dataset: Path) -> None:
    assert pretrain(*TINY, "--seed", 5, "--set", "optimizer.lr=2.0e-5", "--out", "runs/a").code == 0
    saved = Path("runs/a/settings.yaml")
    assert saved.read_text().startswith("# spark, preset smoke, resolved by scarce ")
    assert f"# Repeat it: scarce pretrain spark --preset {saved} --out ANOTHER" in saved.read_text()
    config = validate(load_preset(str(saved), "spark"), RunConfig)
    assert (config.run.seed, config.optimizer.lr, config.method["mask_ratio"]) == (5, 2e-5, 0.6)
    again = scarce("pretrain", "spark", "--preset", saved, "--out", "runs/b", "--data", dataset)
    assert again.code == 0, again.err
    a, b = (checkpoint.load_encoder(Path(f"runs/{name}/last.pt")).state for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_device_cpu_overrides_the_recipe(scarce: Callable, dataset: Path) -> None:
    small = ("model.backbone=resnet18", "data.size=32", "method.patch=8", "method.decoder_width=8", "run.batch_size=24")
    small += (
        "method.masking=input",
        "method.drop_path=0.0",
        "run.epochs=1",
        "schedule.warmup_epochs=0",
        "run.snapshot_epochs=5",
    )
    settings = [argument for value in small for argument in ("--set", value)]
    result = scarce("pretrain", "spark", "--preset", "l4", "--data", dataset, "--device", "cpu", *settings)
    assert result.code == 0, result.err
    assert "spark resnet18, 32 px" in result.err
    assert "bf16 on cpu" in result.err
    config = validate(load_preset("runs/spark-l4/settings.yaml", "spark"), RunConfig)
    assert (config.run.device, config.model.gradient_checkpointing) == ("cpu", 1)


def test_without_cuda_the_l4_recipe_is_code_8(scarce: Callable, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = scarce("pretrain", "spark", "--preset", "l4", "--data", dataset, "--set", "run.batch_size=48")
    assert result.code == 8
    assert "no CUDA device here (torch " in result.err
    assert (
        "found the CPU only); the recipe l4 (resnet50, 224 px, batch 48, bf16) needs an NVIDIA GPU with" in result.err
    )
    assert "on this machine: scarce pretrain spark --preset cpu; or insist with --device cpu" in result.err
    assert _files(Path()) == []


WRONG = [
    (("sparc",), "no method 'sparc'; did you mean 'spark'?", "methods: spark, moco, barlow, dino"),
    (("spark", "--preset", "smoke", "--init", "none.pth"), "no file of weights ", "nothing is downloaded"),
    (
        ("spark", "--preset", "smoke", "--init", "."),
        "a folder (--init is empty, or names one)",
        "nothing is downloaded",
    ),
    (("spark", "--preset", "smoke", "--init", ""), "a folder (--init is empty, or names one)", "nothing is downloaded"),
    (("spark", "--preset", "smok"), "no preset 'smok' for spark; did you mean 'smoke'?", "presets: "),
    (("spark", "--preset", "a.yaml"), "no preset file a.yaml", "shipped presets: "),
    (("spark", "--set", "run.epoch=1"), "unknown key 'run.epoch'; did you mean 'epochs'?", "valid keys there: "),
    (("spark", "--set", "optimizer.lr=1e-3"), "'optimizer.lr' is text, not a number", "write it with a point"),
    (("spark", "--preset", "smoke"), "no prepared data set in ", "make one: scarce preprocess --src FOLDER"),
    (("spark", "--preset", "smoke", "--data", "nih"), "nih", "scarce preprocess"),
    (("spark", "--device", "tpu"), "'tpu' is not one of", ""),
    (("spark", "--seed", "-1"), "Invalid value for '--seed'", ""),
    ((), "missing argument 'method'", ""),
]


@pytest.mark.parametrize(("arguments", "message", "remedy"), WRONG, ids=[" ".join(case[0]) or "none" for case in WRONG])
def test_a_wrong_call_is_code_2_with_what_and_remedy_and_writes_nothing(
    arguments: tuple[str, ...], message: str, remedy: str, scarce: Callable
) -> None:
    result = scarce("pretrain", *arguments)
    assert result.code == 2
    flat = re.sub(r"[│\s]+", " ", result.err)
    assert message.lower() in flat.lower()
    assert remedy in flat
    assert "Traceback" not in result.err
    assert list(Path().iterdir()) == []


def test_the_help_names_every_method(scarce: Callable) -> None:
    flat = re.sub(r"[│\s]+", " ", scarce("pretrain", "--help").out)
    for name in TABLE:
        assert re.search(rf"\b{name}\b", flat), name


def test_wrong_settings_of_the_method_are_code_2(pretrain: Callable) -> None:
    for setting, message in (
        ("method.patches=8", "--set method.patches=8: unknown key 'method.patches'; did you mean 'patch'?"),
        ("method.patch=5", "data.size is 32, not a multiple of method.patch (5)"),
        ("run.batch_size=49", "the data set has 48 films, fewer than one batch of 49"),
    ):
        result = pretrain("--set", setting)
        assert result.code == 2
        assert message in result.err
        assert "What to do: " in result.err
        assert _files(Path()) == []


@pytest.fixture
def weights(weights: Path) -> Path:
    """With a name that YAML would read otherwise."""
    return weights.rename("Röntgen \U0001fa7b [weights]: #1.pth")


def test_a_run_can_start_from_weights_and_records_where_they_are(pretrain: Callable, weights: Path) -> None:
    still = ("--set", "optimizer.lr=1.0e-30", "--set", "optimizer.weight_decay=0.0")
    result = pretrain(*TINY, *still, "--init", weights)
    assert result.code == 0, result.err
    assert f"starting from {weights.absolute()}" in result.err
    run, state = Path("runs/spark-smoke"), torch.load(weights)
    config = validate(load_preset(str(run / "settings.yaml"), "spark"), RunConfig)
    assert config.model.init == str(weights.absolute())
    assert checkpoint.load(run / "last.pt")[0]["origin"]["init_digest"] == sha256(weights)
    found = checkpoint.load_encoder(run / "last.pt").state
    torch.testing.assert_close(found["conv1.weight"], state["conv1.weight"].sum(dim=1, keepdim=True))
    assert torch.equal(found["layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])


def test_weights_that_cannot_be_used_end_with_their_code_and_leave_nothing(pretrain: Callable, weights: Path) -> None:
    state = torch.load(weights)
    bad = {
        2: {**state, "layer1.2.conv1.weight": torch.zeros(3)},
        4: {**state, "conv1.weight": _Evil()},
        5: {**state, "bn1.bias": state["bn1.bias"] / 0},
    }
    weights.unlink()
    for code, what in bad.items():
        torch.save(what, "bad.pth")
        result = pretrain(*TINY, "--init", "bad.pth")
        assert result.code == code
        assert "bad.pth" in result.err
        assert "What to do: name a local file (nothing is downloaded)" in result.err
        assert _files(Path()) == ["bad.pth"]


class _Evil:
    """Pickled, this touches a file when it is unpickled without care."""

    def __reduce__(self) -> tuple:
        return (os.system, (f"touch {Path.cwd() / 'marker'}",))


def test_several_data_sets_are_listed(scarce: Callable, dataset: Path) -> None:
    for name in ("nih-256", "chex-96"):
        os.symlink(dataset, name)
    result = scarce("pretrain", "spark", "--preset", "smoke")
    assert result.code == 2
    assert "several prepared data sets here: chex-96, nih-256" in result.err
    assert "choose one: --data chex-96" in result.err


def test_a_data_set_without_cache_names_the_command(scarce: Callable, dataset: Path) -> None:
    shutil.copytree(dataset, "films-32", ignore=shutil.ignore_patterns("cache.*"))
    result = scarce("pretrain", "spark", "--preset", "smoke")
    assert result.code == 2
    assert "films-32 has no cache yet" in result.err
    assert "What to do: build it: scarce cache films-32" in result.err


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test when anything heavy is begun."""
    monkeypatch.setattr(sys.modules["scarce_cli.commands.pretrain"], "_job", pytest.fail)


@pytest.mark.usefixtures("no_torch")
def test_a_run_folder_that_exists_is_code_2_and_stays(pretrain: Callable) -> None:
    Path("runs/spark-smoke").mkdir(parents=True)
    Path("runs/spark-smoke/settings.yaml").write_text("mine")
    result = pretrain()
    assert result.code == 2
    assert "the run folder runs/spark-smoke exists already" in result.err
    assert "add --resume; start anew: --out ANOTHER" in result.err
    assert _files(Path()) == ["runs/spark-smoke/settings.yaml"]
    result = pretrain("--resume", "--out", "runs/other")
    assert result.code == 2
    assert "no run to go on with in runs/other" in result.err


@pytest.mark.usefixtures("no_torch")
def test_a_folder_that_cannot_be_made_is_code_8(pretrain: Callable) -> None:
    Path("file").touch()
    result = pretrain("--out", "file/run")
    assert result.code == 8
    assert "cannot write in " in result.err


@pytest.mark.usefixtures("no_torch")
def test_a_second_run_in_the_same_folder_is_code_6(pretrain: Callable) -> None:
    folder = Path("runs/spark-smoke")
    folder.mkdir(parents=True)
    (folder / "settings.yaml").write_text("x")
    with folder_lock(folder, "x"):
        for more in ((), ("--resume",)):
            result = pretrain(*more)
            assert result.code == 6
            assert f"runs/spark-smoke is in use: a run writes there (process {os.getpid()} on " in result.err
            assert "wait for it to end, or stop it" in result.err


@pytest.mark.parametrize("when", ["while torch is loaded", "before the lock"])
def test_one_that_was_quicker_is_not_overwritten(
    when: str, pretrain: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs start at once; the other takes the folder, and has ended, before this one locks it."""
    from scarce_cli.runs import RunFolder

    place, name = (
        (sys.modules["scarce_cli.commands.pretrain"], "_job") if when.startswith("while") else (RunFolder, "lock")
    )
    original = getattr(place, name)

    def slower(*arguments: Any) -> Any:
        settings = Path("runs/spark-smoke/settings.yaml")
        settings.parent.mkdir(parents=True, exist_ok=True)
        settings.write_text("quicker")
        return original(*arguments)

    monkeypatch.setattr(place, name, slower)
    result = pretrain(*TINY)
    assert result.code == 2
    assert "the run folder runs/spark-smoke exists already" in result.err
    assert Path("runs/spark-smoke/settings.yaml").read_text() == "quicker"
    assert not Path("runs/spark-smoke/metrics.jsonl").exists()


def test_ctrl_c_saves_and_says_how_to_go_on(pretrain: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    stepped = TrainingView.stepped

    def interrupt(self: TrainingView, report: Any) -> None:
        stepped(self, report)
        if report.step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingView, "stepped", interrupt)
        result = pretrain(*TINY)
    assert result.code == 130
    assert "stopped after step 1 of 2; everything is in runs/spark-smoke/last.pt" in result.err
    assert "What to do: go on with the same command and --resume" in result.err
    assert result.out == ""
    result = pretrain(*TINY, "--set", "optimizer.lr=0.5", "--resume")
    assert result.code == 2
    assert "was trained with other settings: optimizer.lr: 0.001 -> 0.5" in result.err
    result = pretrain(*TINY, "--resume")
    assert result.code == 0, result.err
    assert "2 steps, going on after step 1; run runs/spark-smoke" in result.err


def _start(dataset: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "scarce_cli", "pretrain", "spark", "--preset", "smoke", "--data", str(dataset)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    return subprocess.Popen([*command, *more], stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        pytest.param(
            signal.SIGKILL, -9, marks=pytest.mark.skipif("SCARCE_LONG" not in os.environ, reason="set SCARCE_LONG=1")
        ),
    ],
)
def test_a_real_process_stopped_by_a_signal_goes_on_to_the_same_weights(
    number: int, code: int, pretrain: Callable, dataset: Path, trained: Path
) -> None:
    settings = ("--set", "run.checkpoint_steps=4", "--set", "run.snapshot_epochs=5")
    process = _start(dataset, *settings)
    run, deadline = Path("runs/spark-smoke"), time.monotonic() + 100
    while time.monotonic() < deadline and not any(line["step"] > 5 for line in read_metrics(run / "metrics.jsonl")):
        time.sleep(0.01)
    process.send_signal(number)
    err = process.communicate(timeout=100)[1]
    assert process.returncode == code, err
    step = checkpoint.load(run / "last.pt")[0]["origin"]["step"]
    if number == signal.SIGTERM:
        assert f"stopped after step {step} of 12; everything is in runs/spark-smoke/last.pt" in err
        assert read_metrics(run / "metrics.jsonl")[-1]["step"] == step
    again = pretrain(*settings, "--resume")
    assert again.code == 0, again.err
    assert f"going on after step {step}" in again.err
    a, b = (checkpoint.load_encoder(path / "last.pt").state for path in (run, trained))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert [line["step"] for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "step"] == list(
        range(1, 13)
    )
    assert not [name for name in _files(run) if "scarce-tmp" in name]


def test_films_held_in_memory_give_the_same_weights(pretrain: Callable) -> None:
    for cache in ("mmap", "ram"):
        assert pretrain(*TINY, "--set", f"data.cache={cache}", "--out", f"runs/{cache}").code == 0
    mapped, held = (checkpoint.load_encoder(Path(f"runs/{cache}/last.pt")).state for cache in ("mmap", "ram"))
    assert all(torch.equal(mapped[name], held[name]) for name in mapped)
