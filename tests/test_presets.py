"""The strict preset loader: every mistake is one line with its place."""

from __future__ import annotations

import contextlib
import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from scarce_cli.config import RunConfig
from scarce_cli.errors import UsageError
from scarce_cli.methods import TABLE, settings_class
from scarce_cli.presets import load_preset, preset_folder, preset_names, validate

GOOD = """\
run:
  epochs: 5
  batch_size: 8
model: {backbone: resnet18}
data: {size: 96}
optimizer:
  name: adamw
  lr: 1.0e-3
  weight_decay: 0.05
"""


def _load(text: str, *overrides: str) -> RunConfig:
    Path("p.yaml").write_text(text)
    return validate(load_preset("p.yaml", "spark", overrides), RunConfig)


def test_a_good_preset_is_read_and_frozen() -> None:
    config = _load(GOOD)
    assert (config.run.epochs, config.optimizer.lr, config.augment.blur_kernel) == (5, 1e-3, (9, 23))
    with pytest.raises(ValidationError):
        config.run.epochs = 6  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("batch_size: 8", "batchsize: 8"),
            "p.yaml:3 unknown key 'run.batchsize'; did you mean 'batch_size'?",
        ),
        (("1.0e-3", "1e-3"), "p.yaml:8 'optimizer.lr' is text, not a number: YAML reads 1e-3 as text"),
        (("epochs: 5", "epochs: five"), "p.yaml:2 'run.epochs': a valid integer (got 'five')"),
        (("epochs: 5", "epochs: 5.5"), "p.yaml:2 'run.epochs'"),
        (("epochs: 5", "epochs: true"), "p.yaml:2 'run.epochs'"),
        (("epochs: 5", "epochs: 0"), "p.yaml:2 'run.epochs': greater than or equal to 1 (got 0)"),
        (("epochs: 5", "epochs: 5\n  epochs: 6"), "p.yaml:3 'run.epochs' stands twice"),
        (("  epochs: 5", "\tepochs: 5"), "p.yaml:2 found character '\\t' that cannot start any token"),
        (("name: adamw", "name: adam"), "p.yaml:7 'optimizer.name': 'adamw', 'sgd', 'lars' or 'lamb' (got 'adam')"),
        (("data: {size: 96}\n", ""), "'data' is missing"),
        (("size: 96", "size: 100"), "p.yaml:5 'data.size': a multiple of 16 (got 100)"),
        (("lr: 1.0e-3", "lr: .nan"), "p.yaml:8 'optimizer.lr': a finite number"),
        (("model:", "modle: {}\nmodel:"), "p.yaml:4 unknown key 'modle'; did you mean 'model'?"),
        (("lr: 1.0e-3", "lr: 2026-01-01"), "p.yaml:8 '2026-01-01' is not a setting"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(change: tuple[str, str], message: str) -> None:
    with pytest.raises(UsageError) as error:
        _load(GOOD.replace(*change))
    assert message in error.value.message
    assert "\n" not in error.value.message
    assert error.value.remedy


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.batchsize=3", "--set run.batchsize=3: unknown key 'run.batchsize'; did you mean 'batch_size'?"),
        ("epochs=3", "not of the form section.key=value"),
        ("run.epochs", "not of the form section.key=value"),
        ("run.epochs.x=3", "'epochs' is not a section"),
        ("augment.blur_kernel=[9]", "'augment.blur_kernel' needs two numbers"),
        ("augment.blur_kernel=[4, 9]", "blur_kernel: both sizes must be odd"),
        ("augment.crop_scale=[0.5, 0.2]", "the first number must not be larger"),
        ("optimizer.lr_1d=0.1", "lr_1d is an option of lars"),
        ("optimizer.name=lamb", "decay_all is for adamw and sgd"),
        ("optimizer.clip_each=1.0", "clip_norm or clip_each, not both"),
        ("schedule.convention=mocko", "'scarce', 'moco', 'barlow', 'dino', 'spark' or 'published' (got 'mocko')"),
        ("schedule.warmup_epochs=5.5", "p.yaml: schedule.warmup_epochs is 5.5, more than run.epochs (5)"),
        ("schedule.milestones=[3]", "milestones replace the cosine: leave final_lr at 0"),
        ("optimizer.lr=[1", "the value is not YAML"),
    ],
)
def test_a_wrong_override_is_named(override: str, message: str) -> None:
    more = "  decay_all: true\n  clip_norm: 1.0\nschedule: {final_lr: 1.0e-4}\n"
    with pytest.raises(UsageError) as error:
        _load(GOOD + more, override)
    assert message in error.value.message


def test_a_warm_up_of_half_an_epoch_does_not_fit_a_schedule_by_epochs() -> None:
    assert _load(GOOD, "schedule.warmup_epochs=0.5").schedule.warmup_epochs == 0.5
    with pytest.raises(UsageError, match="a whole number, because 'published' goes by epochs"):
        _load(GOOD, "schedule.warmup_epochs=0.5", "schedule.convention=published")


def test_overrides_win_and_the_last_counts() -> None:
    assert _load(GOOD, "run.epochs=7", "run.epochs=9", "schedule.warmup_epochs=2").run.epochs == 9


def test_unknown_presets_name_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'smoke'") as error:
        load_preset("smok", "spark")
    assert "l4" in error.value.remedy
    with pytest.raises(UsageError, match=r"no preset file nowhere\.yaml"):
        load_preset("nowhere.yaml", "spark")
    (tmp_path / "latin.yaml").write_bytes(b"run: \xe9\xff")
    with pytest.raises(UsageError, match="not a UTF-8"):
        load_preset("latin.yaml", "spark")


@given(st.text(max_size=80))
def test_any_text_as_preset_gives_a_usage_error_or_values(text: str) -> None:
    Path("fuzz.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
    with contextlib.suppress(UsageError):
        validate(load_preset("fuzz.yaml", "spark"), RunConfig)


SHIPPED = sorted(preset_folder().glob("*/*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_shipped_preset_is_valid_and_says_where_it_comes_from(path: Path) -> None:
    preset = load_preset(path.parent.name, path.stem)
    validate(preset, RunConfig)
    validate(preset, settings_class(path.stem), ("method",))
    text = path.read_text(encoding="utf-8")
    assert max(map(len, text.splitlines())) <= 120
    assert f"# Command: scarce pretrain {path.stem} --preset {path.parent.name}\n" in text or path.parent.name == "demo"
    if path.parent.name == "l4-published":
        assert "# Published: " in _head(path)
        assert "# Not repeated: " in _head(path)


def _head(path: Path) -> str:
    """The comment that a preset opens with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    head = list(itertools.takewhile(lambda line: line.startswith("#"), lines))
    assert head
    assert all(line.startswith("# ") for line in head)
    return "\n".join(head) + "\n"


CARDS = {"l4": ("NVIDIA L4", 22.0), "t4": ("NVIDIA T4", 15.0), "a100": ("NVIDIA A100", 40.0)}
ON_A_CARD = [path for path in SHIPPED if path.parent.name.partition("-")[0] in CARDS]


@pytest.mark.parametrize("path", ON_A_CARD, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_a_recipe_for_a_gpu_says_what_it_costs_or_that_nobody_has_measured_it(path: Path) -> None:
    head, run = _head(path), validate(load_preset(path.parent.name, path.stem), RunConfig).run
    card, memory = CARDS[path.parent.name.partition("-")[0]]
    assert f"on one {card} (" in head.splitlines()[0]
    assert "# Source: " in head
    assert (run.device, run.gpu_memory) == ("cuda", memory)
    assert f"# Price: {run.gpu_price:g} dollars an hour, " in head
    assert head.count("check yours") == 1
    line = re.findall(r"^#.*peak memory, images/s, hours, dollars.*$", head, re.I | re.M)
    assert len(line) == 1
    assert "not measured yet" in line[0] or f"MEASURED on {card}" in line[0]


@pytest.mark.parametrize("path", ON_A_CARD, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_figures_on_paper_say_so_and_agree_with_each_other(path: Path) -> None:
    run = validate(load_preset(path.parent.name, path.stem), RunConfig).run
    (line,) = re.findall(r"^# On paper, not measured: (.*)$", _head(path), re.M)
    memory = float(line.partition(" GiB")[0])
    assert memory < run.gpu_memory
    speed = re.search(r"at best (\d+) images/s .*, (\d+) h and (\d+) dollars for 112,120 films", line)
    assert (speed is not None) == path.parent.name.startswith("l4")
    if speed:
        hours = 112_120 * run.epochs / float(speed[1]) / 3600
        assert float(speed[2]) == pytest.approx(hours, abs=0.51)
        assert float(speed[3]) == pytest.approx(hours * run.gpu_price, abs=0.51)


def test_only_recipes_for_a_gpu_have_a_price() -> None:
    for path in SHIPPED:
        run = validate(load_preset(path.parent.name, path.stem), RunConfig).run
        assert (run.gpu_price > 0) == (run.device == "cuda") == (path in ON_A_CARD)


@pytest.mark.parametrize("setting", ["monitor.films=1", "monitor.films=0"])
def test_a_monitor_that_cannot_stop_a_run_is_refused(setting: str) -> None:
    with pytest.raises(UsageError, match="films"):
        validate(load_preset("l4", "moco", [setting]), RunConfig)


def test_a_recipe_that_costs_money_stops_a_collapsed_run() -> None:
    for path in SHIPPED:
        config = validate(load_preset(path.parent.name, path.stem), RunConfig)
        assert (config.monitor.on_collapse == "stop") == (config.run.gpu_price > 0), path


def test_every_method_has_recipes_for_three_cards_and_the_published_one() -> None:
    for method in TABLE:
        assert {"l4", "t4", "a100", "l4-published"} <= set(preset_names(method))


@pytest.mark.parametrize("method", TABLE)
def test_a_card_changes_no_recipe_but_for_its_memory_and_its_numbers(method: str) -> None:
    """Batch and rates together, or neither; precision, price and recomputed stages as the card has them."""
    usual = validate(load_preset("l4", method), RunConfig).model_dump()
    for card, precision in (("t4", "fp16"), ("a100", "bf16")):
        other = validate(load_preset(card, method), RunConfig).model_dump()
        assert other["run"]["precision"] == precision
        share = other["run"]["batch_size"] / usual["run"]["batch_size"]
        for section, key in (("optimizer", "lr"), ("optimizer", "lr_1d"), ("schedule", "final_lr")):
            assert other[section].pop(key) == pytest.approx(share * usual[section][key])
        for section, keys in (("run", ("batch_size", "precision", "gpu_memory", "gpu_price")),
                              ("model", ("gradient_checkpointing",))):  # fmt: skip
            for key in keys:
                other[section][key] = usual[section][key]
        rest = {**usual, "optimizer": {**usual["optimizer"]}, "schedule": {**usual["schedule"]}}
        for section, key in (("optimizer", "lr"), ("optimizer", "lr_1d"), ("schedule", "final_lr")):
            del rest[section][key]
        assert other == rest


# From the series' table of settings, its text and its public code.
PUBLISHED: dict[str, dict[str, object]] = {
    "moco": {
        "backbone": "resnet50", "batch": 384, "epochs": 800, "name": "sgd", "lr": 0.03 * 384 / 256, "decay": 1e-4,
        "warmup": 10, "crop": (0.08, 1.0), "noise": 0.1,
        "method": {"queue": 65536, "dimension": 128, "key_momentum": 0.999, "temperature": 0.07, "bn_splits": 1,
                   "shuffle_keys": False, "variance_weight": 1.0, "variance_on": "raw"},
    },
    "barlow": {
        "backbone": "resnet18", "batch": 512, "epochs": 200, "name": "adamw", "lr": 2.4e-3, "decay": 1e-4,
        "warmup": 10, "crop": (0.08, 1.0), "noise": 0.1,
        "method": {"projector": (2048, 2048, 2048), "lambd": 0.005, "standardise": "published"},
    },
    "spark": {
        "backbone": "resnet50", "batch": 256, "epochs": 200, "name": "adamw", "lr": 3e-4, "decay": 5e-2,
        "warmup": 20, "crop": (0.2, 1.0), "noise": 0.05,
        "method": {"masking": "input", "patch": 32, "mask_ratio": 0.6, "decoder_width": 256, "noisy_target": True},
    },
    "dino": {
        "backbone": "resnet50", "batch": 64, "epochs": 200, "name": "adamw", "lr": 5e-4, "decay": 4e-2,
        "warmup": 10, "crop": (0.4, 1.0), "noise": 0.1,
        "method": {"outputs": 256, "local_crops": 0, "student_temperature": 0.1, "teacher_temperature": (0.07, 0.04),
                   "teacher_temperature_epochs": 30, "teacher_temperature_late": True, "centre_momentum": 0.99,
                   "teacher_momentum": (0.99, 1.0), "teacher_momentum_curve": "linear", "crops_together": False,
                   "freeze_last_layer_epochs": 0.0, "head_batch_norm": False, "evaluate": "student"},
    },
}  # fmt: skip


@pytest.mark.parametrize("method", PUBLISHED)
def test_the_published_recipes_are_those_of_the_series(method: str) -> None:
    preset, wanted = load_preset("l4-published", method), PUBLISHED[method]
    config = validate(preset, RunConfig)
    found = {
        "backbone": config.model.backbone,
        "batch": config.run.batch_size,
        "epochs": config.run.epochs,
        "name": config.optimizer.name,
        "lr": config.optimizer.lr,
        "decay": config.optimizer.weight_decay,
        "warmup": config.schedule.warmup_epochs,
        "crop": config.augment.crop_scale,
        "noise": config.augment.noise_std,
    }
    assert found == {key: value for key, value in wanted.items() if key != "method"}
    settings = validate(preset, settings_class(method), ("method",))
    named = wanted["method"]
    assert isinstance(named, dict)
    assert {key: getattr(settings, key) for key in named} == named


@pytest.mark.parametrize("method", PUBLISHED)
def test_what_all_published_runs_have_in_common(method: str) -> None:
    config = validate(load_preset("l4-published", method), RunConfig)
    assert (config.data.size, config.data.mean, config.data.std, config.run.precision) == (224, 0.518, 0.254, "fp16")
    augment = config.augment
    assert (augment.rotation_degrees, augment.brightness, augment.contrast) == (10, 0.8, 0.8)
    assert augment.geometry == "published"
    assert (augment.jitter_probability, augment.blur_probability) == (0.8, 0.5)
    assert (augment.blur_kernel, augment.blur_sigma) == ((9, 23), (0.1, 2.0))
    assert (config.optimizer.clip_norm, config.optimizer.decay_all, config.optimizer.momentum) == (3.0, True, 0.9)
    assert (config.schedule.convention, config.schedule.final_lr, config.schedule.milestones) == ("published", 0.0, ())
    assert config.optimizer.final_weight_decay is None


def test_the_official_rates_are_scaled_by_the_batch() -> None:
    """Rates for 256 films in the official codes; the end is a thousandth where they say so."""
    for card, (method, rate, end) in itertools.product(CARDS, (("moco", 0.03, 0.0), ("barlow", 0.2, 1e-3))):
        config = validate(load_preset(card, method), RunConfig)
        assert config.optimizer.lr == pytest.approx(rate * config.run.batch_size / 256)
        assert config.schedule.final_lr == pytest.approx(end * config.optimizer.lr)
        assert config.schedule.convention == method
        if method == "barlow":
            assert config.optimizer.lr_1d == pytest.approx(0.0048 * config.run.batch_size / 256)


def test_no_colour_jitter_and_no_noise_for_spark() -> None:
    augment = validate(load_preset("l4", "spark"), RunConfig).augment
    assert (augment.brightness, augment.contrast, augment.noise_std) == (0.0, 0.0, 0.0)
