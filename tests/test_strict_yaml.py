"""Settings in YAML: plain values with their lines, and nothing that could hang, grow or run."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from scarce_cli.errors import UsageError
from scarce_cli.strict_yaml import parse_value, read_mapping


def _read(text: str) -> tuple[dict[str, Any], dict[tuple[str, ...], str]]:
    Path("s.yaml").write_text(text, "utf-8")
    return read_mapping(Path("s.yaml"))


def test_values_and_the_line_of_every_key() -> None:
    values, lines = _read("# a\nrun:\n  epochs: 5\n  lr: 1.0e-3\n\nlist: [1, {a: true}]\ntext: 'x'\nnone: null\n")
    assert values == {"run": {"epochs": 5, "lr": 1e-3}, "list": [1, {"a": True}], "text": "x", "none": None}
    assert lines == {
        ("run",): "s.yaml:2", ("run", "epochs"): "s.yaml:3", ("run", "lr"): "s.yaml:4", ("list",): "s.yaml:6",
        ("list", "a"): "s.yaml:6", ("text",): "s.yaml:7", ("none",): "s.yaml:8",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb: *x\n", "s.yaml:1 a value is used again by an alias (*)"),
        ("a: &x [*x]\n", "s.yaml:1 a value is used again by an alias (*)"),
        ("a: &x long\nb: [*x, *x]\n", "s.yaml:1 a value is used again by an alias (*)"),
        ("a: 2026-01-01\n", "s.yaml:1 '2026-01-01' is not a setting"),
        ("a: 2026-13-45\n", "s.yaml:1 '2026-13-45' is not a setting"),
        ("\na: !!int five\n", "s.yaml:2 'five' is not a setting"),
        ("a: !!binary aGVsbG8=\n", "s.yaml:1 'aGVsbG8=' is not a setting"),
        ("a: !!python/name:os.system x\n", "s.yaml:1 'x' is not a setting"),
        (
            "a: !!python/object/apply:os.system [ls]\n",
            "s.yaml:1 a tag (tag:yaml.org,2002:python/object/apply:os) is not",
        ),
        ("a: !!set {x}\n", "s.yaml:1 a tag (tag:yaml.org,2002:set) is not a setting"),
        (f"a: {'9' * 5000}\n", f"s.yaml:1 '{'9' * 40}' is not a setting"),
        (f"a: 0x{'f' * 5000}\n", f"s.yaml:1 '0x{'f' * 38}' is not a setting"),
        ("a: 0b_\n", "s.yaml:1 '0b_' is not a setting"),
        ("a: " + "[" * 3000, "s.yaml: it is nested too deeply"),
        ("a: 1\n---\nb: 2\n", "s.yaml:2 but found another document"),
        ("a: \x07\n", "s.yaml is not YAML"),
        ("b", "s.yaml holds no settings"),
    ],
)
def test_what_is_no_plain_value_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        _read(text)
    assert error.value.message.startswith(message)
    assert error.value.remedy


def test_aliases_of_aliases_cost_nothing() -> None:
    """Nine lines that would stand for a thousand million values."""
    lines = ["a0: &a0 [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(UsageError, match=r"s\.yaml:1 a value is used again"):
        _read("\n".join(lines))


def test_a_mebibyte_is_read_and_one_byte_more_is_not() -> None:
    text = "a: 1\n#"
    assert _read(text + "x" * (2**20 - len(text)))[0] == {"a": 1}
    with pytest.raises(UsageError, match=r"s\.yaml is larger than 1 MiB"):
        _read(text + "x" * (2**20 - len(text) + 1))


def test_a_file_that_says_nothing_of_its_size_is_read_no_further_than_a_mebibyte() -> None:
    """Those of /proc are ordinary files of 0 bytes."""
    with pytest.raises(UsageError):
        read_mapping(Path("/proc/self/maps"))


def test_a_file_without_permission_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("s.yaml").write_text("a: 1\n")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UsageError, match=r"cannot read s\.yaml: Permission denied"):
        read_mapping(Path("s.yaml"))


@pytest.mark.parametrize(
    ("text", "value"), [("5", 5), ("[0.2, 1.0]", [0.2, 1.0]), ("{a: 1}", {"a": 1}), ("", None), ("a b", "a b")]
)
def test_a_single_value_follows_the_same_rules(text: str, value: object) -> None:
    assert parse_value(text, "--set x:") == value


@pytest.mark.parametrize("text", ["[1", "2026-01-01", "[" * 3000, "&a [*a]", "{a: 1, a: 2}", "!!set {a}"])
def test_a_single_value_that_is_refused_names_the_option(text: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_value(text, "--set x:")
    assert error.value.message.startswith("--set x: ")


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.dictionaries(st.text(), plain, min_size=1))
def test_whatever_is_plain_comes_back(values: dict[str, Any]) -> None:
    assert _read(yaml.dump(values, Dumper=_NoAliases))[0] == values


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


@given(st.text(st.sampled_from("ab:{}[],&*!-?|>'\"# \n\t01.e<%@`~"), max_size=60))
def test_any_signs_of_yaml_give_values_or_a_message(text: str) -> None:
    with contextlib.suppress(UsageError):
        _read(text)
    with contextlib.suppress(UsageError):
        parse_value(text, "--set x:")
