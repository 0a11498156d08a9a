"""Presets: the one strict way to configure a run.

A preset is ``presets/<name>/<method>.yaml``, then ``--set section.key=value``. A mistake is one line: file,
line number, what is wrong, the nearest valid key.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from scarce_cli.config import Settings
from scarce_cli.errors import UsageError

if TYPE_CHECKING:
    from yaml import MappingNode, Node

T = TypeVar("T", bound=Settings)


@dataclass(frozen=True)
class Preset:
    """A parsed preset with its overrides: plain values, and where each came from for messages."""

    name: str  # "l4", or the path given
    method: str  # "spark"
    values: dict[str, Any]
    lines: Mapping[tuple[str, ...], str] = field(default_factory=dict)  # key path -> "file:line" or "--set ..."

    def where(self, key: tuple[str, ...]) -> str:
        """The file and line (or option) that set ``key``, or its nearest parent."""
        while key and key not in self.lines:
            key = key[:-1]
        return self.lines.get(key, self.name)


def preset_folder() -> Path:
    """The shipped presets: inside the installed package, or at the top of a source checkout."""
    inside = Path(__file__).parent / "presets"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "presets"


def preset_names(method: str) -> list[str]:
    """Names of the shipped presets that have a recipe for ``method``."""
    return sorted(path.parent.name for path in preset_folder().glob(f"*/{method}.yaml"))


def find_preset(name: str, method: str) -> Path:
    """The file of a shipped preset, or of a path to a YAML file. UsageError with the nearest name."""
    if name.endswith((".yaml", ".yml")):
        if Path(name).is_file():
            return Path(name)
        raise UsageError(f"no preset file {name}", f"shipped presets: {', '.join(preset_names(method))}")
    names = preset_names(method)
    if name not in names:
        raise UsageError(f"no preset '{name}' for {method}{nearest(name, names)}", f"presets: {', '.join(names)}")
    return preset_folder() / name / f"{method}.yaml"


def load_preset(name: str, method: str, overrides: Iterable[str] = ()) -> Preset:
    """Read a preset and apply ``section.key=value`` overrides. Nothing is validated but the YAML itself.

    Raises:
        UsageError: not YAML, tabs, a duplicate key, a key that is not a word, a malformed override.
    """
    path = find_preset(name, method)
    values, lines = _read_yaml(path)
    for override in overrides:
        _apply_override(override, values, lines)
    return Preset(name=name, method=method, values=values, lines=lines)


def validate(preset: Preset, model: type[T], section: tuple[str, ...] = ()) -> T:
    """Check the values of ``section`` (the whole preset by default) against ``model``.

    Raises:
        UsageError: the first mistake, as one line with file, line number and the nearest valid key.
    """
    values: Any = preset.values
    for key in section:
        values = values.get(key, {})
    try:
        # Strict JSON mode: lists become tuples, nothing else is converted.
        return model.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise UsageError(*_explain(preset, model, section, error)) from None


def _explain(
    preset: Preset, model: type[Settings], section: tuple[str, ...], error: ValidationError
) -> tuple[str, str]:
    # A misspelt key is also a missing one: name the misspelling.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    inner = tuple(str(part) for part in first["loc"])
    where = preset.where(section + inner)
    name = ".".join(section + inner)
    fields = _fields(model, inner[:-1])
    if first["type"] == "extra_forbidden":
        close = nearest(inner[-1], fields)
        return f"{where} unknown key '{name}'{close}", f"valid keys there: {', '.join(fields)}"
    if first["type"] in ("missing", "too_long") and isinstance(inner[-1], int | str) and inner[-1] in ("0", "1"):
        return f"{where} '{'.'.join((section + inner)[:-1])}' needs two numbers", "for example [0.2, 1.0]"
    if first["type"] == "missing":
        return f"{where} '{name}' is missing", f"add it to the preset, or --set {name}=VALUE"
    value = first["input"]
    if isinstance(value, str) and _is_number(value):
        return (
            f"{where} '{name}' is text, not a number: YAML reads {value} as text",
            f"write it with a point: {float(value):.1e}",
        )
    reason = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    got = "" if isinstance(value, dict) else f" (got {value!r})"
    return f"{where} '{name}': {reason}{got}" if name else f"{where}: {reason}", "correct the value"


def _fields(model: type[Settings], path: tuple[str, ...]) -> list[str]:
    for part in path:
        if part not in model.model_fields:
            break
        inner = model.model_fields[part].annotation
        if isinstance(inner, type) and issubclass(inner, Settings):
            model = inner
    return list(model.model_fields)


def nearest(word: str, words: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the nearest of ``words``, or an empty string."""
    close = difflib.get_close_matches(word, list(words), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _apply_override(override: str, values: dict[str, Any], lines: dict[tuple[str, ...], str]) -> None:
    name, equals, text = override.partition("=")
    keys = tuple(name.strip().split("."))
    if not equals or not all(keys) or len(keys) < 2:
        raise UsageError(f"--set {override}: not of the form section.key=value", "for example --set run.epochs=5")
    where = f"--set {override}:"
    value = _parse_value(text, where)
    place = values
    for depth, key in enumerate(keys[:-1], start=1):
        place = place.setdefault(key, {})
        lines.setdefault(keys[:depth], where)
        if not isinstance(place, dict):
            raise UsageError(f"--set {override}: '{key}' is not a section", "for example --set run.epochs=5")
    place[keys[-1]] = value
    lines[keys] = where


def _parse_value(text: str, where: str) -> Any:
    """One value in YAML, by the same rules as a preset's."""
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        raise UsageError(f"{where} the value is not YAML", "put quotes around it") from None
    return None if node is None else _value(node, (), where, {})


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], str]]:
    import yaml

    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not a UTF-8 text file", "name a preset or a YAML file") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "check the path and permissions") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{path}:{line} {error.problem}", "YAML is indented by spaces, never tabs") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {error}", "name a preset or a YAML file") from None
    if not isinstance(node, yaml.MappingNode):
        raise UsageError(f"{path} holds no settings", "a preset is sections of 'key: value' lines")
    lines: dict[tuple[str, ...], str] = {}
    return _mapping(node, (), str(path), lines), lines


def _mapping(
    node: MappingNode, prefix: tuple[str, ...], source: str, lines: dict[tuple[str, ...], str]
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value)
        where = f"{source}:{key_node.start_mark.line + 1}"
        if key in values:
            raise UsageError(f"{where} '{'.'.join((*prefix, key))}' stands twice", "keep one of the two lines")
        lines[(*prefix, key)] = where
        values[key] = _value(value_node, (*prefix, key), source, lines)
    return values


def _value(node: Node, prefix: tuple[str, ...], source: str, lines: dict[tuple[str, ...], str]) -> Any:
    import yaml

    if isinstance(node, yaml.MappingNode):
        return _mapping(node, prefix, source, lines)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, prefix, source, lines) for item in node.value]
    # SafeLoader builds plain scalars only: null, bool, int, float, str, dates.
    value = yaml.SafeLoader("").construct_object(node)
    if value is not None and not isinstance(value, bool | int | float | str):
        raise UsageError(f"{source}:{node.start_mark.line + 1} {value!r} is not a setting", "quote it, or correct it")
    return value
