"""A file of episodes from a stranger: every oddity is one message, never a traceback, never a wrong result."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scarce_cli.errors import DamagedData, ScarceError, UsageError
from scarce_cli.evaluation.fewshot import episodes_check
from scarce_cli.evaluation.fewshot.drawing import draw_episodes
from scarce_cli.evaluation.fewshot.episodes import Episodes, EpisodeSettings
from scarce_cli.evaluation.fewshot.episodes_check import digest
from scarce_cli.evaluation.fewshot.episodes_file import read_episodes, write_episodes
from tests.evaluation.fewshot.tables import some_films

FILMS = some_films(60)
HOW = EpisodeSettings(shots=(1, 2, 500), draws=2, test_fraction=0.4)
MANY = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "episodes.json"
    write_episodes(path, FILMS, draw_episodes(FILMS, ["nodule", "effusion"], None, HOW))
    return path.read_bytes()


def signed(value: dict[str, Any]) -> str:
    """The file of these values with the digest that they have."""
    value.pop("sha256", None)
    return json.dumps({**value, "sha256": digest(value)})


def outcome(path: Path) -> Episodes | ScarceError:
    """What reading gives; a refusal names the file and a way out."""
    try:
        return read_episodes(path, FILMS)
    except ScarceError as error:
        refused = error
    assert str(path) in refused.message
    assert refused.remedy
    return refused


@MANY
@given(st.data())
def test_no_damaged_file_is_read(tmp_path: Path, good: bytes, data: st.DataObject) -> None:
    """Bytes changed, lost, doubled or cut off: one message that names the file, or the very same values."""
    place, length = data.draw(st.integers(0, len(good) - 1)), data.draw(st.integers(0, 3))
    middle = data.draw(st.binary(max_size=4) | st.sampled_from([b"[" * 5000, b"9" * 5000, b"1e999", b"NaN", b"null"]))
    end = data.draw(st.sampled_from([good[place + length :], b""]))
    path = tmp_path / "episodes.json"
    path.write_bytes(good[:place] + middle + end)
    if isinstance(outcome(path), Episodes):
        assert json.loads(path.read_bytes()) == json.loads(good)


@MANY
@given(st.data())
def test_no_value_of_another_kind_is_taken(tmp_path: Path, good: bytes, data: st.DataObject) -> None:
    """One value anywhere replaced, its digest right: a message, or episodes that can be written again."""
    value = json.loads(good)
    spot: Any = value
    while True:
        key = data.draw(st.sampled_from(sorted(spot) if isinstance(spot, dict) else range(len(spot))))
        if not isinstance(spot[key], dict | list) or not spot[key] or data.draw(st.integers(0, 3)) == 0:
            break
        spot = spot[key]
    anything = (
        st.none()
        | st.booleans()
        | st.integers(-2, 70)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=3)
    )
    spot[key] = data.draw(anything | st.integers(2**63, 2**80) | st.lists(st.integers(0, 5) | st.text()) | st.just({}))
    path = tmp_path / "episodes.json"
    path.write_text(signed(value))
    found = outcome(path)
    if isinstance(found, Episodes):
        write_episodes(path, FILMS, found)
        again = json.loads(path.read_text())
        assert {k: v for k, v in again.items() if k != "sha256"} == {k: v for k, v in value.items() if k != "sha256"}


def task(value: dict[str, Any], **changed: Any) -> None:
    value["tasks"][0].update(changed)


Change = Callable[[dict[str, Any]], Any]
ODDITIES: list[tuple[Change, str]] = [
    (lambda v: v.update(more=1), "the keys films, format, more"),
    (lambda v: v.pop("skipped"), "the keys films, format, settings"),
    (lambda v: v["settings"].update(shots=[]), "nothing can be drawn with its settings"),
    (lambda v: v["settings"].update(shots=[1, 1]), "nothing can be drawn"),
    (lambda v: v["settings"].update(shots=[0]), "a whole number is not within 1 and"),
    (lambda v: v["settings"].update(shots=[True]), "a bool stands where a int should be"),
    (lambda v: v["settings"].update(draws=0), "a whole number is not within 1 and"),
    (lambda v: v["settings"].update(draws=3), "has not 3 draws"),
    (lambda v: v["settings"].update(seed=-1), "a whole number is not within 0 and"),
    (lambda v: v["settings"].update(test_fraction=1.0), "nothing can be drawn"),
    (lambda v: v["settings"].update(test_fraction=1), "a int stands where a float should be"),
    (lambda v: v["films"].append(v["films"][0]), "a film is listed twice"),
    (lambda v: v["films"][0].append(""), "a film is not"),
    (lambda v: v["films"].__setitem__(0, "a/00000.png"), "a str stands where a list should be"),
    (lambda v: v["films"][0].__setitem__(1, "x" * 60_000), "a text has 60,000 characters"),
    (lambda v: v["tasks"].append(v["tasks"][0]), "a task stands twice"),
    (lambda v: task(v, against="nodule"), "has not two classes"),
    (lambda v: task(v, positive=[]), "has not two classes"),
    (lambda v: task(v, positive=v["tasks"][0]["positive"] * 2), "a test film of 'nodule' stands twice"),
    (lambda v: task(v, positive=v["tasks"][0]["negative"]), "a test film of 'nodule' stands twice"),
    (lambda v: task(v, positive=[len(v["films"])]), "a place is not that of a film"),
    (lambda v: task(v, positive=[-1]), "a place is not that of a film"),
    (lambda v: task(v, positive=[True]), "a place is not that of a film"),
    (lambda v: task(v, positive=v["tasks"][0]["supports"]["1"][0][:1]), "both learned from and tested on"),
    (lambda v: task(v, supports={}), "lacks a number of shots without a reason"),
    (lambda v: v["tasks"][0]["supports"].pop("2"), "lacks a number of shots without a reason"),
    (lambda v: v["tasks"][0]["supports"].update({"3": []}), "draws for each number of shots"),
    (lambda v: v["tasks"][0]["supports"].update({"01": v["tasks"][0]["supports"]["1"]}), "draws for each number"),
    (lambda v: v["tasks"][0]["supports"]["1"].pop(), "has not 2 draws"),
    (lambda v: v["tasks"][0]["supports"]["2"][0].pop(), "a support set has not 2 films of each class"),
    (lambda v: v["tasks"][0]["supports"]["2"][0].__setitem__(slice(0, 2), [0, 0]), "has not 2 films of each class"),
    (lambda v: v["skipped"].append([]), "what was skipped is not"),
    (lambda v: v["skipped"].append(["nodule", "the rest", 0, ""]), "a whole number is not within"),
    (lambda v: v["skipped"].append(["nodule", "the rest", 1, ""]), "lacks a number of shots without a reason"),
    (lambda v: v["skipped"].clear(), "lacks a number of shots without a reason"),
    (lambda v: v["films"].append(["a/unused.png", ""]), "films"),
]


@pytest.mark.parametrize("number", range(len(ODDITIES)))
def test_what_no_draw_could_give_is_refused(tmp_path: Path, good: bytes, number: int) -> None:
    change, words = ODDITIES[number]
    value = json.loads(good)
    change(value)
    path = tmp_path / "episodes.json"
    path.write_text(signed(value))
    with pytest.raises((DamagedData, UsageError), match=words) as raised:
        read_episodes(path, FILMS)
    assert raised.value.message.startswith(f"{path}: ")
    assert raised.value.remedy


def test_a_film_that_no_task_uses_is_refused(tmp_path: Path, good: bytes) -> None:
    """Hidden films would be asked of another hospital for nothing."""
    value = json.loads(good)
    more = some_films(62)
    value["films"] += [[more.names[61], more.pixels[61]]]
    (tmp_path / "e.json").write_text(signed(value))
    with pytest.raises(DamagedData, match="lists films that no task uses"):
        read_episodes(tmp_path / "e.json", more)


def test_a_layout_of_ones_own_is_read(tmp_path: Path, good: bytes) -> None:
    """The digest is of the values: a file that was indented by hand is as good."""
    value = json.loads(good)
    (tmp_path / "e.json").write_text(json.dumps(dict(reversed(value.items())), indent=3, ensure_ascii=False))
    assert len(read_episodes(tmp_path / "e.json", FILMS).tasks) == 2


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("", DamagedData, "it is not JSON"),
        ("[]", UsageError, "is not a file of episodes in the format scarce-episodes-1"),
        ('{"format": "scarce-episodes-2"}', UsageError, "is not a file of episodes"),
        ('{"format": ["scarce-episodes-1"]}', UsageError, "is not a file of episodes"),
        ('{"format": "scarce-episodes-1", "format": 1}', DamagedData, "a key stands twice"),
        ("[" * 100_000, DamagedData, "it is not JSON"),
        ("[0" + ",0" * 10_000_000, UsageError, "larger than a file of episodes can be"),
        ("[]," * 1_000_001, UsageError, "larger than a file of episodes can be"),
    ],
)
def test_what_is_no_file_of_episodes(tmp_path: Path, text: str, kind: type[ScarceError], words: str) -> None:
    path = tmp_path / "episodes.json"
    path.write_text(text)
    with pytest.raises(kind, match=words):
        read_episodes(path, FILMS)


def test_a_file_too_large_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "episodes.json"
    with open(path, "wb") as handle:
        handle.truncate(1 << 40)  # a hole: takes no disk
    monkeypatch.setattr(episodes_check, "MAX_BYTES", 1 << 20)
    with pytest.raises(UsageError, match="larger than a file of episodes can be"):
        read_episodes(path, FILMS)
