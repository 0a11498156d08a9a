"""Presets: the one strict way to configure a run.

A preset is ``presets/<name>/<method>.yaml``, then ``--set section.key=value``. With ``extends: FILE`` or
``extends: NAME`` it takes the settings of another preset first and says only what it changes. A mistake is one
line: file, line number, what is wrong, the nearest valid key.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from scarce_cli.config import Settings
from scarce_cli.errors import UsageError
from scarce_cli.strict_yaml import Keys, Lines, parse_value, read_mapping

T = TypeVar("T", bound=Settings)

_SUFFIXES = (".yaml", ".yml")
_DEEPEST = 8  # files that a preset extends, one after the other


@dataclass(frozen=True)
class Preset:
    """A parsed preset with its overrides: plain values, and where each came from for messages."""

    name: str  # "l4", or the path given
    method: str  # "spark"
    values: dict[str, Any]
    lines: Mapping[Keys, str] = field(default_factory=dict)  # "file:line" or "--set ...:"

    def where(self, key: Keys) -> str:
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


def find_preset(name: str, method: str, where: str = "") -> Path:
    """The file of a shipped preset, or of a path to a YAML file. UsageError with the nearest name.

    ``where``: the file and line that ask for it, to open the message with.
    """
    names = preset_names(method)
    if name.endswith(_SUFFIXES):
        if os.path.isfile(name):  # unlike Path's, False for a path that no file can have
            return Path(name)
        raise UsageError(f"{where}no preset file {name}", f"shipped presets: {', '.join(names)}")
    if name not in names:
        remedy = f"presets: {', '.join(names)}; or the path of a file that ends in .yaml"
        raise UsageError(f"{where}no preset {name!r} for {method}{nearest(name, names)}", remedy)
    return preset_folder() / name / f"{method}.yaml"


def load_preset(name: str, method: str, overrides: Iterable[str] = ()) -> Preset:
    """Read a preset and what it extends, then apply ``section.key=value`` overrides.

    Sections are merged key by key, the file's own keys win, lists are replaced whole. Nothing is validated but
    the YAML itself and the chain of files.

    Raises:
        UsageError: not YAML, tabs, a duplicate key, a key that is not a word, a malformed override; a file to
            extend that is missing, comes round in a circle, or is one too many.
    """
    values, lines = _read_chain(find_preset(name, method), method)
    for override in overrides:
        _apply_override(override, values, lines)
    return Preset(name=name, method=method, values=values, lines=lines)


def _read_chain(path: Path, method: str) -> tuple[dict[str, Any], Lines]:
    """The settings of a file, laid over those of the file that it extends, and so on."""
    layers, chain, where = [], [os.path.abspath(path)], ""
    while True:
        values, lines = read_mapping(path, where)
        layers.append((values, lines))
        if "extends" not in values:
            break
        where = f"{lines.pop(('extends',))} 'extends': "
        path = _parent(path, values.pop("extends"), where, method)
        _check_chain(chain, os.path.abspath(path), where)
    merged: dict[str, Any] = {}
    places: Lines = {}
    for values, lines in reversed(layers):
        _merge(merged, values)
        places.update(lines)
    return merged, places


def _parent(path: Path, value: Any, where: str, method: str) -> Path:
    """The file that the preset ``path`` extends by ``value``. UsageError when it may not, or names nothing."""
    if not isinstance(value, str) or any(sign < " " for sign in value):
        raise UsageError(f"{where}a name or a path (got {str(value)[:40]!r})", "for example extends: l4")
    if not value.endswith(_SUFFIXES):
        return find_preset(value, method, where)
    parent = Path(os.path.normpath(path.parent / value))
    if _is_shipped(path) and (os.path.isabs(value) or not _is_shipped(parent)):
        raise UsageError(f"{where}{value} leaves the folder of presets", "a shipped preset extends shipped ones only")
    return parent


def _is_shipped(path: Path) -> bool:
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(preset_folder()))


def _check_chain(chain: list[str], following: str, where: str) -> None:
    """Add a file to the chain of those read so far. UsageError when it is one of them, or one too many."""
    if following in chain:
        raise UsageError(f"{where}{following} comes round in a circle", "take out one of the lines 'extends'")
    if len(chain) > _DEEPEST:
        raise UsageError(f"{where}more than {_DEEPEST} files after each other", "extend the first of them directly")
    chain.append(following)


def _merge(values: dict[str, Any], upper: dict[str, Any]) -> None:
    """Lay ``upper`` over ``values``, in place: sections key by key, anything else as it is."""
    for key, value in upper.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = value


def validate(preset: Preset, model: type[T], section: Keys = ()) -> T:
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


def _explain(preset: Preset, model: type[Settings], section: Keys, error: ValidationError) -> tuple[str, str]:
    # A misspelt key is also a missing one: name the misspelling.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    inner = tuple(str(part) for part in first["loc"])
    where = preset.where(section + inner)
    name = ".".join(section + inner)
    if first["type"] == "extra_forbidden":
        fields = [*_model_at(model, inner[:-1]).model_fields, *(["extends"] if not name.count(".") else [])]
        close = nearest(inner[-1], fields)
        return f"{where} unknown key '{name}'{close}", f"valid keys there: {', '.join(fields)}"
    if first["type"] in ("missing", "too_long") and inner[-1] in ("0", "1"):
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
    about = f" '{name}'" if name else ""
    if not isinstance(value, dict):
        return f"{where}{about}: {reason} (got {value!r})", "correct the value"
    places, remedy = _places(preset, model, section, inner, reason)
    return f"{where}{about}: {reason}{places}", remedy


def _places(preset: Preset, model: type[Settings], section: Keys, inner: Keys, reason: str) -> tuple[str, str]:
    """For what is wrong with a section as a whole: where the keys stand that it names, and their defaults.

    A key may come from a file that the preset extends, where it was right. It cannot be left out, only set anew.
    """
    places, defaults = [], []
    for word in re.findall(r"[a-z_]\w*(?:\.\w+)?", reason):
        key = (*inner, *word.split("."))
        found = _model_at(model, key[:-1]).model_fields.get(key[-1])
        if found is None or isinstance(found.default, Settings | dict) or (*section, *key) not in preset.lines:
            continue
        name = ".".join((*section, *key))
        places.append(f"{name}: {preset.lines[*section, *key].removesuffix(':')}")
        if not found.is_required():
            defaults.append(f"{name}: {json.dumps(found.default)}")
    remedy = f", or set a default anew: {', '.join(defaults)}" if defaults else ""
    return f" ({', '.join(places)})" if places else "", f"correct the value{remedy}"


def _model_at(model: type[Settings], path: Keys) -> type[Settings]:
    """The settings of a section inside ``model``."""
    for part in path:
        if part not in model.model_fields:
            break
        inner = model.model_fields[part].annotation
        if isinstance(inner, type) and issubclass(inner, Settings):
            model = inner
    return model


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


def _apply_override(override: str, values: dict[str, Any], lines: Lines) -> None:
    name, equals, text = override.partition("=")
    keys = tuple(name.strip().split("."))
    if not equals or not all(keys) or len(keys) < 2:
        raise UsageError(f"--set {override}: not of the form section.key=value", "for example --set run.epochs=5")
    where = f"--set {override}:"
    value = parse_value(text, where)
    place = values
    for depth, key in enumerate(keys[:-1], start=1):
        place = place.setdefault(key, {})
        lines.setdefault(keys[:depth], where)
        if not isinstance(place, dict):
            raise UsageError(f"--set {override}: '{key}' is not a section", "for example --set run.epochs=5")
    place[keys[-1]] = value
    lines[keys] = where
