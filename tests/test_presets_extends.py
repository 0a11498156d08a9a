"""A preset that extends others: what is merged, what a mistake names, and what is refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from scarce_cli import presets
from scarce_cli.config import RunConfig
from scarce_cli.errors import UsageError
from scarce_cli.methods import settings_class
from scarce_cli.presets import Preset, load_preset, preset_folder, validate

BASE = """\
run:
  epochs: 5
  batch_size: 8
model: {backbone: resnet18}
data: {size: 96}
augment:
  crop_scale: [0.2, 0.9]
optimizer:
  name: lars
  lr: 0.2
  lr_1d: 4.8e-3
  weight_decay: 1.0e-6
method:
  patch: 32
"""


def _write(**texts: str) -> None:
    """``folder__name="..."`` writes folder/name.yaml."""
    for name, text in texts.items():
        path = Path(f"{name.replace('__', '/')}.yaml")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def _refused(name: str = "a.yaml", method: str = "spark", overrides: tuple[str, ...] = ()) -> UsageError:
    with pytest.raises(UsageError) as error:
        validate(load_preset(name, method, overrides), RunConfig)
    assert "\n" not in error.value.message
    assert error.value.remedy
    return error.value


def test_the_file_wins_key_by_key_over_a_chain_in_other_folders() -> None:
    _write(
        base=BASE,
        mid__b="run: {epochs: 7, seed: 3}\nextends: ../base.yaml\nmethod: {patch: 16}\n",
        top__a="extends: ../mid/b.yaml\nrun: {epochs: 9}\naugment: {crop_scale: [0.5, 1.0]}\nmethod: {mask_ratio: 0.5}",
    )
    preset = load_preset("top/a.yaml", "spark", ["run.batch_size=4"])
    assert preset.values == {
        **yaml.safe_load(BASE),
        "run": {"epochs": 9, "batch_size": 4, "seed": 3},
        "augment": {"crop_scale": [0.5, 1.0]},
        "method": {"patch": 16, "mask_ratio": 0.5},
    }
    config = validate(preset, RunConfig)
    assert "extends" not in str(config.model_dump())
    places = {key: preset.where(key) for key in (("run", "epochs"), ("run", "seed"), ("data", "size"))}
    assert list(places.values()) == ["top/a.yaml:2", "mid/b.yaml:1", "base.yaml:5"]
    assert preset.where(("run", "batch_size")) == "--set run.batch_size=4:"


def test_a_user_extends_a_shipped_preset_by_name_or_any_file_by_path(tmp_path: Path) -> None:
    shipped = load_preset("l4", "barlow").values
    elsewhere = tmp_path / "elsewhere.yaml"
    elsewhere.write_text("extends: l4\nrun: {seed: 1}\n")
    for text in ("extends: l4\n", f"extends: {preset_folder()}/l4/barlow.yaml\n", f"extends: {elsewhere}\n"):
        _write(my__a=f"{text}run: {{seed: 2}}\n")
        values = load_preset("my/a.yaml", "barlow").values
        assert values.pop("run") == {**shipped["run"], "seed": 2}
        assert values == {key: value for key, value in shipped.items() if key != "run"}
    _write(l4="extends: l4\n")  # a file of that name is not the shipped preset
    assert load_preset("l4.yaml", "barlow").values == shipped


@pytest.mark.parametrize(
    ("child", "message"),
    [
        ("run: {epochs: 1}", "base.yaml:3 'run.batch_size': greater than or equal to 2 (got 1)"),
        ("data: {sise: 96}", "a.yaml:2 unknown key 'data.sise'; did you mean 'size'?"),
        ("run: {batch_size: 8, epochs: 0}", "a.yaml:2 'run.epochs': greater than or equal to 1 (got 0)"),
        ("run: {extends: base.yaml, batch_size: 8}", "a.yaml:2 unknown key 'run.extends'"),
        ("run: 5", "a.yaml:2 'run': an object (got 5)"),
        ("run:", "a.yaml:2 'run': an object (got None)"),
        ("extend: b.yaml", "a.yaml:2 unknown key 'extend'; did you mean 'extends'?"),
        ("extends: b.yaml", "a.yaml:2 'extends' stands twice"),
    ],
)
def test_a_mistake_names_the_file_and_line_where_it_stands(child: str, message: str) -> None:
    _write(base=BASE.replace("batch_size: 8", "batch_size: 1"), a=f"extends: base.yaml\n{child}\n")
    assert message in _refused().message


def test_what_does_not_belong_to_another_optimizer_is_named_with_its_place_and_default() -> None:
    _write(base=BASE, a="extends: base.yaml\noptimizer:\n  name: adamw\n")
    error = _refused()
    assert error.message == "a.yaml:2 'optimizer': lr_1d is an option of lars (optimizer.lr_1d: base.yaml:11)"
    assert "optimizer.lr_1d: 0.0" in error.remedy
    error = _refused("base.yaml", overrides=("optimizer.clip_norm=1.0", "optimizer.clip_each=1.0"))
    assert error.message.endswith("(optimizer.clip_norm: --set optimizer.clip_norm=1.0, "
                                  "optimizer.clip_each: --set optimizer.clip_each=1.0)")  # fmt: skip
    assert "optimizer.clip_norm: 0.0, optimizer.clip_each: 0.0" in error.remedy
    _write(a="extends: base.yaml\noptimizer:\n  name: adamw\n  lr_1d: 0.0\n")
    assert validate(load_preset("a.yaml", "spark"), RunConfig).optimizer.name == "adamw"


def test_a_mistake_between_two_sections_names_both_places() -> None:
    _write(base=BASE, a="extends: base.yaml\n\nschedule: {warmup_epochs: 6}\n")
    error = _refused()
    assert "more than run.epochs (5) (schedule.warmup_epochs: a.yaml:3, run.epochs: base.yaml:2)" in error.message


@pytest.mark.parametrize("files", [1, 2, 3])
def test_a_circle_is_found_whatever_its_length(files: int) -> None:
    for number in range(files):
        Path(f"f{number}.yaml").write_text(f"\nextends: ./../{Path.cwd().name}/f{(number + 1) % files}.yaml\n")
    error = _refused("f0.yaml")
    assert f"f{files - 1}.yaml:2 'extends': " in error.message
    assert error.message.endswith(f"{Path('f0.yaml').absolute()} comes round in a circle")
    Path("link.yaml").symlink_to("f0.yaml")
    assert "circle" in _refused("link.yaml").message


def test_a_chain_has_eight_files_at_most_beyond_the_first() -> None:
    _write(f0=BASE)
    for number in range(1, 10):
        Path(f"f{number}.yaml").write_text(f"extends: f{number - 1}.yaml\nrun: {{seed: {number}}}\n")
    assert load_preset("f8.yaml", "spark").values["run"] == {"epochs": 5, "batch_size": 8, "seed": 8}
    assert _refused("f9.yaml").message == "f1.yaml:1 'extends': more than 8 files after each other"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("5", "a name or a path (got '5')"),
        ("", "a name or a path (got 'None')"),
        ("[base.yaml]", "a name or a path (got \"['base.yaml']\")"),
        ("{l4: l4}", "a name or a path"),
        ("true", "a name or a path (got 'True')"),
        ("'5'", "no preset '5' for spark"),
        ("l4-publish", "no preset 'l4-publish' for spark; did you mean 'l4-published'?"),
        ("l4-adamw", "no preset 'l4-adamw' for spark"),
        ("../../etc/passwd", "no preset '../../etc/passwd' for spark"),
        ("/dev/zero", "no preset '/dev/zero' for spark"),
        ("/etc/passwd", "no preset '/etc/passwd' for spark"),
        ("missing.yaml", "cannot read missing.yaml: No such file or directory"),
        ("no/such/folder.yml", "cannot read no/such/folder.yml: No such file or directory"),
        ("folder.yaml", "folder.yaml is not a file"),
        ("pipe.yaml", "pipe.yaml is not a file"),
        ("zero.yaml", "zero.yaml is not a file"),
        ("dangling.yaml", "cannot read dangling.yaml: No such file"),
        ("huge.yaml", "huge.yaml is larger than 1 MiB"),
        (f"{'x' * 300}.yaml", "File name too long"),
        ('"nul\\0.yaml"', "a name or a path (got 'nul\\x00.yaml')"),
        ('"two\\nlines.yaml"', "a name or a path (got 'two\\nlines.yaml')"),
        ('"\\ud800.yaml"', "is no path"),
    ],
)
def test_what_cannot_be_extended_is_a_message_with_file_and_line(value: str, message: str) -> None:
    Path("folder.yaml").mkdir()
    os.mkfifo("pipe.yaml")
    Path("zero.yaml").symlink_to("/dev/zero")
    Path("dangling.yaml").symlink_to("nowhere")
    with open("huge.yaml", "wb") as handle:
        handle.truncate(2**40)
    Path("a.yaml").write_text(f"run: {{epochs: 3}}\nextends: {value}\n", "utf-8")
    error = _refused()
    assert error.message.startswith("a.yaml:2 'extends': ")
    assert message in error.message


def test_a_mistake_in_the_yaml_of_a_parent_names_the_parent() -> None:
    _write(a="extends: b.yaml\n")
    for text, message in (
        ("run:\n\tepochs: 5\n", "b.yaml:2 found character"),
        ("run: {epochs: 5}\nrun: {epochs: 6}\n", "b.yaml:2 'run' stands twice"),
        ("", "b.yaml holds no settings"),
        ("- run\n", "b.yaml holds no settings"),
    ):
        _write(b=text)
        assert _refused().message.startswith(message)


def test_extends_cannot_be_set_from_the_command_line() -> None:
    _write(a=BASE, b=BASE)
    assert "not of the form" in _refused(overrides=("extends=b.yaml",)).message
    assert "unknown key 'extends'" in _refused(overrides=("extends.file=b.yaml",)).message


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The presets as they lie in an installed wheel: inside the package's folder, beside the module."""
    folder = tmp_path / "site" / "scarce_cli" / "presets"
    shutil.copytree(preset_folder(), folder)
    monkeypatch.setattr(presets, "__file__", str(folder.parent / "presets.py"))
    assert preset_folder() == folder
    return folder


def _resolved() -> dict[str, Any]:
    return {
        f"{path.parent.name}/{path.stem}": load_preset(path.parent.name, path.stem).values
        for path in preset_folder().glob("*/*.yaml")
    }


def test_installed_presets_resolve_as_in_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = _resolved()
    folder = tmp_path / "site" / "scarce_cli" / "presets"
    shutil.copytree(preset_folder(), folder)
    monkeypatch.setattr(presets, "__file__", str(folder.parent / "presets.py"))
    assert _resolved() == here
    linked = tmp_path / "linked" / "scarce_cli" / "presets"  # some installers link every file to a store
    for path in folder.rglob("*.yaml"):
        (linked / path.parent.name).mkdir(parents=True, exist_ok=True)
        store = tmp_path / f"{path.parent.name}-{path.stem}"
        shutil.copy(path, store)
        (linked / path.parent.name / path.name).symlink_to(store)
    monkeypatch.setattr(presets, "__file__", str(linked.parent / "presets.py"))
    assert _resolved() == here


@pytest.mark.parametrize("value", ["../../mine.yaml", "{folder}/l4/spark.yaml", "/etc/mine.yaml", "../../../mine.yaml"])
def test_a_shipped_preset_does_not_leave_its_folder(value: str, wheel: Path) -> None:
    (wheel.parent / "mine.yaml").write_text(BASE)
    (wheel.parents[1] / "mine.yaml").write_text(BASE)
    path = wheel / "t4" / "spark.yaml"
    path.write_text(f"extends: {value.format(folder=wheel)}\n")
    assert "leaves the folder of presets" in _refused("t4").message
    _write(a="extends: t4\n")
    assert f"{path}:1 'extends': " in _refused().message
    path.write_text("extends: l4\n")
    assert load_preset("t4", "spark").values == load_preset("l4", "spark").values


words = st.sampled_from(["a", "b", "c", "d"])
leaves = st.none() | st.booleans() | st.integers(-9, 9) | st.lists(st.integers(0, 9), max_size=2)
sections = st.dictionaries(words, st.recursive(leaves, lambda inner: st.dictionaries(words, inner, max_size=3)))


def _flat(values: Any, prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every value that is not a section, and every section that is empty, by its path."""
    if not isinstance(values, dict) or not values:
        return {prefix: values}
    return {path: leaf for key, value in values.items() for path, leaf in _flat(value, (*prefix, key)).items()}


def _expected(layers: list[dict[str, Any]]) -> dict[tuple[str, ...], Any]:
    """By another way than the program's: leaves laid over each other, those in the way removed."""
    flat: dict[tuple[str, ...], Any] = {(): {}}
    for layer in layers:
        for path, leaf in _flat(layer).items():
            if leaf == {} and any(old[: len(path)] == path and (old != path or flat[old] == {}) for old in flat):
                continue  # an empty section adds nothing to a section
            clash = [o for o in flat if o == path or o == path[: len(o)] or path == o[: len(path)]]
            for old in clash:
                del flat[old]
            flat[path] = leaf
    return flat


@given(st.lists(sections, min_size=1, max_size=4))
def test_merging_is_laying_leaves_over_leaves(layers: list[dict[str, Any]]) -> None:
    for number, layer in enumerate(layers):
        above = {"extends": f"h{number - 1}.yaml"} if number else {}
        Path(f"h{number}.yaml").write_text(yaml.safe_dump({**above, **layer}))
    preset = load_preset(f"h{len(layers) - 1}.yaml", "spark")
    assert _flat(preset.values) == _expected(layers)
    for path in _flat(preset.values):
        last = max(n for n, layer in enumerate(layers) if _has(layer, path)) if path else 0
        assert not path or preset.where(path).startswith(f"h{last}.yaml:")


def _has(values: Any, path: tuple[str, ...]) -> bool:
    for key in path:
        if not isinstance(values, dict) or key not in values:
            return False
        values = values[key]
    return True


@given(sections)
def test_extending_without_changes_and_repeating_what_stands_there_change_nothing(values: dict[str, Any]) -> None:
    Path("p.yaml").write_text(yaml.safe_dump(values))
    Path("same.yaml").write_text("extends: p.yaml\n")
    Path("again.yaml").write_text(yaml.safe_dump({"extends": "p.yaml", **values}))
    wanted = load_preset("p.yaml", "spark").values if values else {}
    assert load_preset("same.yaml", "spark").values == wanted
    assert load_preset("again.yaml", "spark").values == wanted


SHIPPED = sorted(preset_folder().glob("*/*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_a_shipped_preset_that_extends_says_only_what_differs(path: Path) -> None:
    own = yaml.safe_load(path.read_text())
    parent = own.pop("extends", None)
    if parent is None:
        assert path.parent.name not in ("t4", "a100")
        return
    inherited = _settings(Preset("", path.stem, load_preset(str(path.parent / parent), path.stem).values))
    for key, value in _flat(own).items():
        section, name = key
        assert inherited[section][name] != value, f"{path}: {section}.{name} is inherited"


def _settings(preset: Preset) -> dict[str, Any]:
    """All settings of a preset, defaults as well, as YAML has them."""
    method = validate(preset, settings_class(preset.method), ("method",)).model_dump(mode="json")
    return {**validate(preset, RunConfig).model_dump(mode="json"), "method": method}
