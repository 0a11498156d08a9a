"""The strict preset loader: every mistake is one line with its place."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from scarce_cli.config import RunConfig
from scarce_cli.errors import UsageError
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
        (("lr: 1.0e-3", "lr: 2026-01-01"), "p.yaml:8 datetime.date(2026, 1, 1) is not a setting"),
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


@pytest.mark.parametrize("path", sorted(preset_folder().glob("*/*.yaml")), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_shipped_preset_is_valid_and_says_where_it_comes_from(path: Path) -> None:
    validate(load_preset(path.parent.name, path.stem), RunConfig)
    assert path.read_text().startswith("# ")


def test_the_l4_recipe_is_that_of_part_4() -> None:
    config = validate(load_preset("l4", "spark"), RunConfig)
    assert (config.model.backbone, config.model.gradient_checkpointing) == ("resnet50", True)
    assert (config.data.size, config.run.batch_size, config.run.epochs) == (224, 256, 200)
    assert (config.optimizer.name, config.optimizer.lr, config.optimizer.weight_decay) == (
        "adamw",
        3e-4,
        5e-2,
    )
    assert (config.schedule.warmup_epochs, config.schedule.final_lr) == (20, 0)
    assert (config.run.precision, config.data.mean, config.data.std) == ("bf16", 0.518, 0.254)
    assert (config.method["mask_ratio"], config.method["patch"]) == (0.60, 32)


def test_all_four_methods_have_an_l4_recipe() -> None:
    for method in ("spark", "moco", "barlow", "dino"):
        assert "l4" in preset_names(method)
