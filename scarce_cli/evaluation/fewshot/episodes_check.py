"""A file of episodes as plain values, each checked before it is used: it may come from anywhere.

All work grows with the size of the file alone, so that no file of a sane size can hold the program up.
"""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path
from typing import Any

import numpy as np

from scarce_cli.errors import DamagedData, UsageError
from scarce_cli.evaluation.fewshot.episodes import Episodes, EpisodeSettings, Skipped, Support, Task
from scarce_cli.evaluation.fewshot.films import Ints

FORMAT = "scarce-episodes-1"
MAX_BYTES = 1 << 27  # all findings of the largest public set of chest films take half of it
_MOST_LISTS, _MOST_VALUES = 1_000_000, 10_000_000  # a film, support set or task each is a list
_MOST_SHOTS, _MOST_DRAWS, _MOST_SEED = 100_000, 100_000, 2**63
_LONGEST = 50_000  # characters of a finding or a reason; a cell of a table may have 10,000
_KEYS = {"format", "settings", "films", "tasks", "skipped", "sha256"}
_SETTING_KEYS = {"shots", "draws", "test_fraction", "seed"}
_TASK_KEYS = {"finding", "against", "positive", "negative", "supports"}
_REMEDY = "get the file anew, or leave out --episodes to draw episodes from the table of labels"


def digest(value: dict[str, Any]) -> str:
    """SHA-256 of JSON values, however they are laid out in the file."""
    text = json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_bytes(path: Path) -> bytes:
    """A regular file's bytes. UsageError where it cannot be read, or is too large for what it should be."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"{path} is not a file", "name a file of episodes")
        with open(path, "rb") as handle:
            data = handle.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {getattr(error, 'strerror', error)}", "check the path") from None
    lists = data.count(b"[")
    if len(data) > MAX_BYTES or lists > _MOST_LISTS or lists + data.count(b",") > _MOST_VALUES:
        raise UsageError(f"{path} is larger than a file of episodes can be", "name a file that scarce probe wrote")
    return data


class Reader:
    """Turns values of one file into what they should be; raises DamagedData where they are not."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _bad(self, what: str) -> DamagedData:
        return DamagedData(f"{self.path}: {what}", _REMEDY)

    def parse(self, data: bytes) -> dict[str, Any]:
        """The values of the file without its digest. UsageError where it is of another format."""
        try:
            value = json.loads(data.decode("utf-8"), object_pairs_hook=self._mapping)
            if not isinstance(value, dict) or value.get("format") != FORMAT:
                raise UsageError(f"{self.path} is not a file of episodes in the format {FORMAT}", "check the path")
            told = self._keys(value, _KEYS).pop("sha256")
            altered = told != digest(value)
        except (ValueError, RecursionError):  # NaN too, which the digest refuses
            raise self._bad("it is not JSON, or was cut short") from None
        if altered:
            raise self._bad("it was altered after it was written: its SHA-256 is another")
        return value

    def _mapping(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise self._bad("a key stands twice")
        return found

    def of(self, kind: type, value: Any) -> Any:
        """``value``, if it is a ``kind`` and nothing derived from it (true is no number)."""
        if type(value) is not kind:
            raise self._bad(f"a {type(value).__name__} stands where a {kind.__name__} should be")
        return value

    def _text(self, value: Any) -> str:
        text: str = self.of(str, value)
        if len(text) > _LONGEST:
            raise self._bad(f"a text has {len(text):,} characters")
        return text

    def _whole_number(self, value: Any, least: int, most: int) -> int:
        number: int = self.of(int, value)
        if not least <= number <= most:
            raise self._bad(f"a whole number is not within {least} and {most}")
        return number

    def _keys(self, value: Any, wanted: set[str]) -> dict[str, Any]:
        if self.of(dict, value).keys() != wanted:
            raise self._bad(f"the keys {', '.join(sorted(value))[:200]} should be {', '.join(sorted(wanted))}")
        return value

    def settings(self, value: Any) -> EpisodeSettings:
        """Settings that can be drawn with."""
        self._keys(value, _SETTING_KEYS)
        shots = tuple(self._whole_number(count, 1, _MOST_SHOTS) for count in self.of(list, value["shots"]))
        fraction = self.of(float, value["test_fraction"])
        if not shots or len(set(shots)) < len(shots) or not 0 < fraction < 1:
            raise self._bad("nothing can be drawn with its settings")
        return EpisodeSettings(
            shots=shots,
            draws=self._whole_number(value["draws"], 1, _MOST_DRAWS),
            test_fraction=fraction,
            seed=self._whole_number(value["seed"], 0, _MOST_SEED),
        )

    def films(self, value: Any) -> list[tuple[str, str]]:
        """(name, hash of the pixels) of each film, all of different names."""
        pairs = [self.of(list, one) for one in self.of(list, value)]
        if any(len(pair) != 2 for pair in pairs):
            raise self._bad("a film is not [name, hash of the pixels]")
        found = [(self._text(name), self._text(pixels)) for name, pixels in pairs]
        if len({name for name, _ in found}) != len(found):
            raise self._bad("a film is listed twice")
        return found

    def task(self, value: Any, numbers: Ints, settings: EpisodeSettings) -> Task:
        """A task whose films are those that ``numbers`` gives at their places."""
        self._keys(value, _TASK_KEYS)
        finding, against = self._text(value["finding"]), self._text(value["against"])
        positive, negative = (self._places(value[key], len(numbers)) for key in ("positive", "negative"))
        if finding == against or not positive or not negative:
            raise self._bad(f"the task '{finding[:80]}' has not two classes")
        tested = {*positive, *negative}
        if len(tested) < len(positive) + len(negative):
            raise self._bad(f"a test film of '{finding[:80]}' stands twice")
        test = numbers[[*positive, *negative]]
        order = np.argsort(test)
        labels = np.repeat([True, False], [len(positive), len(negative)])[order]
        known = {str(shots): shots for shots in settings.shots}
        supports: dict[int, tuple[Support, ...]] = {}
        for key, draws in self.of(dict, value["supports"]).items():
            if key not in known or len(self.of(list, draws)) != settings.draws:
                raise self._bad(f"'{finding[:80]}' has not {settings.draws} draws for each number of shots")
            supports[known[key]] = tuple(self._support(one, numbers, known[key], tested) for one in draws)
        return Task(finding, against, test[order], labels, supports)

    def _places(self, value: Any, films: int) -> list[int]:
        listed: list[int] = self.of(list, value)
        if any(type(place) is not int or not 0 <= place < films for place in listed):
            raise self._bad("a place is not that of a film")
        return listed

    def _support(self, value: Any, numbers: Ints, shots: int, tested: set[int]) -> Support:
        """``shots`` films with the finding and as many without, all different, none of them tested on."""
        listed = self._places(value, len(numbers))
        if len(listed) != 2 * shots or len(set(listed)) != 2 * shots:
            raise self._bad(f"a support set has not {shots} films of each class, all different")
        if not tested.isdisjoint(listed):
            raise self._bad("a film is both learned from and tested on")
        return Support(numbers[listed], np.repeat([True, False], shots))

    def skipped(self, value: Any) -> Skipped:
        """What could not be drawn."""
        if len(self.of(list, value)) != 4:
            raise self._bad("what was skipped is not [finding, against, shots, reason]")
        finding, against, reason = (self._text(value[place]) for place in (0, 1, 3))
        shots = None if value[2] is None else self._whole_number(value[2], 1, _MOST_SHOTS)
        return Skipped(finding, against, shots, reason)

    def whole(self, episodes: Episodes, films: int) -> None:
        """Nothing is there twice, nothing is missing without a reason, and each of ``films`` listed is used."""
        tasks, settings = episodes.tasks, episodes.settings
        if len({(task.finding, task.against) for task in tasks}) != len(tasks):
            raise self._bad("a task stands twice")
        reasons = {(one.finding, one.against, one.shots) for one in episodes.skipped}
        for task in tasks:
            there = {(task.finding, task.against, shots) for shots in task.supports}
            asked = {(task.finding, task.against, shots) for shots in settings.shots}
            if not there or there & reasons or not asked <= there | reasons:
                raise self._bad(f"'{task.finding[:80]}' lacks a number of shots without a reason")
        if len(episodes.films()) != films:
            raise self._bad("it lists films that no task uses")
