"""YAML as plain values, each with the line it stands on: sections, lists, text, numbers, true and false, null.

Nothing is guessed and nothing is executed. What YAML could do besides (aliases, tags, dates) is refused with its line,
and so is a file that is no ordinary one, too large, or nested too deeply.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scarce_cli.errors import UsageError

if TYPE_CHECKING:
    from yaml import MappingNode, Node

Keys = tuple[str, ...]  # the path of a setting: ("run", "epochs")
Lines = dict[Keys, str]  # where it stands: "file:line"

_PLAIN = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_LARGEST = 2**20  # bytes of a file
_NESTED = "it is nested too deeply", "settings are sections of 'key: value' lines"


def read_mapping(path: Path, where: str = "") -> tuple[dict[str, Any], Lines]:
    """The sections of a YAML file, and the line of every key.

    Args:
        where: the place that names the file, to open the message when it cannot be read.

    Raises:
        UsageError: cannot be read, not a file, larger than 1 MiB, not UTF-8, not YAML, no sections, a key twice, a
            value that is no plain one.
    """
    import yaml

    try:
        node = yaml.compose(_read(path, where), Loader=yaml.SafeLoader)
        if not isinstance(node, yaml.MappingNode):
            raise UsageError(f"{path} holds no settings", "a preset is sections of 'key: value' lines")
        return _Builder(str(path)).whole(node)
    except RecursionError:
        raise UsageError(f"{path}: {_NESTED[0]}", _NESTED[1]) from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{path}:{line} {error.problem}", "YAML is indented by spaces, never tabs") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {error}", "name a preset or a YAML file") from None


def parse_value(text: str, where: str) -> Any:
    """One value in YAML, by the same rules as a file's. UsageError that opens with ``where``."""
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        return None if node is None else _Builder(where).value(node, ())
    except RecursionError:
        raise UsageError(f"{where} {_NESTED[0]}", _NESTED[1]) from None
    except yaml.YAMLError:
        raise UsageError(f"{where} the value is not YAML", "put quotes around it") from None


def _read(path: Path, where: str) -> str:
    """The text of a regular file of a sane size: a pipe could wait for ever, a device has no end."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UsageError(f"{where}{path} is not a file", "name a preset or a YAML file")
        with open(path, "rb") as handle:
            data = handle.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise UsageError(f"{where}{path} is larger than 1 MiB: not a preset", "name a preset or a YAML file")
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{where}{path} is not a UTF-8 text file", "name a preset or a YAML file") from None
    except OSError as error:
        remedy = "check the path (from the folder of the file that names it)" if where else "check the path"
        raise UsageError(f"{where}cannot read {path}: {error.strerror}", f"{remedy} and permissions") from None
    except ValueError:  # signs that no path can hold
        raise UsageError(f"{where}{str(path)!r} is no path", "check the path") from None


class _Builder:
    """Turns the nodes of one document into values."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._lines: Lines = {}
        self._seen: set[int] = set()  # nodes by their id, all kept alive by the root

    def whole(self, root: MappingNode) -> tuple[dict[str, Any], Lines]:
        """Values and lines of a file."""
        return self._mapping(root, ()), self._lines

    def value(self, node: Node, prefix: Keys) -> Any:
        """The value of a node; the lines of what is inside are kept under ``prefix``."""
        import yaml

        if id(node) in self._seen:  # a few aliases of aliases can stand for any amount of values
            raise UsageError(f"{self._at(node)} a value is used again by an alias (*)", "write it out in each place")
        self._seen.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if node.tag not in _PLAIN:
            raise UsageError(f"{self._at(node)} a tag ({node.tag[:40]}) is not a setting", "leave the tag out")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, prefix)
        return [self.value(item, prefix) for item in node.value]

    def _mapping(self, node: MappingNode, prefix: Keys) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in values:
                name = ".".join((*prefix, key))
                raise UsageError(f"{self._at(key_node)} '{name}' stands twice", "keep one of the two lines")
            self._lines[*prefix, key] = self._at(key_node)
            values[key] = self.value(value_node, (*prefix, key))
        return values

    def _scalar(self, node: Node) -> Any:
        """Null, bool, int, float or str. UsageError for a date, bytes, a tag that does not fit, a number too long."""
        import yaml

        try:
            value = yaml.SafeLoader("").construct_object(node)
            json.dumps(value)  # what the checks of the settings read
        except (yaml.YAMLError, ValueError, TypeError):
            text = f"{str(node.value)[:40]!r}"
            raise UsageError(f"{self._at(node)} {text} is not a setting", "quote it, or correct it") from None
        return value

    def _at(self, node: Node) -> str:
        """``file:line``, or the option alone."""
        return self._source if self._source.endswith(":") else f"{self._source}:{node.start_mark.line + 1}"
