"""The file of episodes: written and read back exactly, no patient in it, refused where another data set differs."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scarce_cli.errors import ResourceError, UnsafeInput, UsageError
from scarce_cli.evaluation.fewshot.drawing import draw_episodes
from scarce_cli.evaluation.fewshot.episodes import Episodes, EpisodeSettings
from scarce_cli.evaluation.fewshot.episodes_check import digest
from scarce_cli.evaluation.fewshot.episodes_file import read_episodes, write_episodes
from scarce_cli.evaluation.fewshot.films import Films
from tests.evaluation.fewshot.tables import FINDINGS, chosen, make_films, shuffled, some_films, tables

QUICK = EpisodeSettings(shots=(3, 1, 500), draws=3, test_fraction=0.4, seed=5)
FILMS = some_films(80)
STEADY = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def some_episodes(films: Films = FILMS, against: str | None = None) -> Episodes:
    return draw_episodes(films, ["nodule", "normal"], against, QUICK)


def plain(episodes: Episodes) -> list[Any]:
    """All that episodes hold, with their types, so that they can be compared."""

    def array(values: np.ndarray) -> tuple[str, list[Any]]:
        return str(values.dtype), values.tolist()

    return [
        episodes.settings,
        episodes.skipped,
        *((task.finding, task.against, array(task.test), array(task.labels)) for task in episodes.tasks),
        *(
            {n: [(array(s.films), array(s.labels)) for s in draws] for n, draws in task.supports.items()}
            for task in episodes.tasks
        ),
    ]


def rewritten(path: Path, change: Any) -> Path:
    """The file after ``change`` of its values, its digest as it should be then."""
    value = json.loads(path.read_text())
    del value["sha256"]
    change(value)
    path.write_text(json.dumps({**value, "sha256": digest(value)}))
    return path


@STEADY
@given(tables(), st.sampled_from([None, *FINDINGS]), st.integers(0, 100))
def test_episodes_come_back_as_they_were(tmp_path: Path, films: Films, against: str | None, seed: int) -> None:
    """In a table of another order they name the same films; written from there the file is the same."""
    there = sorted({name for names in films.findings for name in names} - {against})
    if not there or (against is not None and not films.showing(against).any()):
        return
    how = EpisodeSettings(shots=(1, 2), draws=2, test_fraction=0.3, seed=seed)
    episodes = draw_episodes(films, there, against, how)
    path, again = tmp_path / "episodes.json", tmp_path / "again.json"
    told = write_episodes(path, films, episodes)
    assert told == hashlib.sha256(path.read_bytes()).hexdigest()
    assert plain(read_episodes(path, films)) == plain(episodes)
    other, order = shuffled(films, seed)
    moved = read_episodes(path, other)
    assert write_episodes(again, other, moved) == told
    assert sorted(order[moved.films()]) == episodes.films().tolist()


def test_the_file_names_films_and_no_patient(tmp_path: Path) -> None:
    path = tmp_path / "episodes.json"
    write_episodes(path, FILMS, some_episodes())
    text = path.read_text("ascii")
    assert not re.search(r"P\d{5}", text)
    used = some_episodes().films()
    assert json.loads(text)["films"] == [[FILMS.names[n], FILMS.pixels[n]] for n in used]
    assert text.count("\n") < len(used) + 20
    assert [path] == list(tmp_path.iterdir())


def test_the_file_is_compact(tmp_path: Path) -> None:
    """A line for each film and five digits for each place: 30,000 films and 14 findings take 2 MB."""
    findings = [f"finding {n}" for n in range(14)]
    cells = (findings[min(n % 29, 13)] for n in range(2_000))
    films = make_films(*((f"images/{n:08d}_000.png", f"{n // 3}", cell) for n, cell in enumerate(cells)))
    path, episodes = tmp_path / "episodes.json", draw_episodes(films, findings, None, EpisodeSettings())
    write_episodes(path, films, episodes)
    places = sum(
        len(task.test) + sum(len(s.films) for draws in task.supports.values() for s in draws) for task in episodes.tasks
    )
    assert len(episodes.tasks) == 14
    assert path.stat().st_size < 66 * len(episodes.films()) + 5.5 * places + 2_000


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "episodes.json"
    write_episodes(path, FILMS, some_episodes())
    before = path.read_bytes()
    monkeypatch.setenv("SCARCE_FAULT", "episodes.pre_rename:1:enospc")
    with pytest.raises(ResourceError):
        write_episodes(path, FILMS, some_episodes(against="effusion"))
    assert path.read_bytes() == before
    assert [path] == list(tmp_path.iterdir())


def test_films_that_are_not_there_are_counted(tmp_path: Path) -> None:
    path, episodes = tmp_path / "episodes.json", some_episodes()
    write_episodes(path, FILMS, episodes)
    used = episodes.films()
    kept = np.setdiff1d(np.arange(80), used[:7])
    first = ", ".join(repr(FILMS.names[n]) for n in used[:5])
    with pytest.raises(UsageError, match=re.escape(f"7 of {len(used)} films ({first}, ...) are not among")) as raised:
        read_episodes(path, chosen(FILMS, kept))
    assert str(path) in raised.value.message
    assert "prepare and label" in raised.value.remedy
    more = read_episodes(path, some_films(200))  # films that the file does not know are no matter
    assert [some_films(200).names[n] for n in more.films()] == [FILMS.names[n] for n in used]


def test_another_film_under_the_same_name_is_refused(tmp_path: Path) -> None:
    path, episodes = tmp_path / "episodes.json", some_episodes()
    write_episodes(path, FILMS, episodes)
    one = int(episodes.films()[3])
    pixels = tuple("f" * 32 if n == one else hash_ for n, hash_ in enumerate(FILMS.pixels))
    with pytest.raises(UsageError, match=rf"1 of \d+ films \('{FILMS.names[one]}'\) is other films|pixels differ"):
        read_episodes(path, replace(FILMS, pixels=pixels))
    unknown = replace(FILMS, pixels=tuple("" if n == one else hash_ for n, hash_ in enumerate(FILMS.pixels)))
    assert plain(read_episodes(path, unknown)) == plain(episodes)


@pytest.mark.parametrize("against", [None, "effusion"])
@pytest.mark.parametrize("place", ["positive", "negative", "supports"])
def test_a_table_that_says_otherwise_is_refused(tmp_path: Path, against: str | None, place: str) -> None:
    path, episodes = tmp_path / "episodes.json", draw_episodes(FILMS, ["nodule"], against, QUICK)
    write_episodes(path, FILMS, episodes)
    (task,) = episodes.tasks
    film = int(
        task.supports[1][0].films[0] if place == "supports" else task.test[task.labels == (place == "positive")][0]
    )
    wrong = {"normal", "nodule"} if place == "negative" else {"normal"}
    findings = tuple(frozenset(wrong) if n == film else names for n, names in enumerate(FILMS.findings))
    with pytest.raises(UsageError, match=rf"in this table 1 of \d+ films \('{FILMS.names[film]}'\) is not labelled"):
        read_episodes(path, replace(FILMS, findings=findings))
    silent = tuple(frozenset() if n == film else names for n, names in enumerate(FILMS.findings))
    with pytest.raises(UsageError, match="not labelled as"):
        read_episodes(path, replace(FILMS, findings=silent))


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../a.png", "a/../../b", "a/..", "", "a\0b", "C:\\x.png", "..\\x", "\\\\host\\share\\x"]
)
def test_a_name_that_leads_out_of_the_data_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "episodes.json"
    write_episodes(path, FILMS, some_episodes())
    with pytest.raises(UnsafeInput, match="out of its folder") as raised:
        read_episodes(rewritten(path, lambda value: value["films"][4].__setitem__(0, name)), FILMS)
    assert raised.value.exit_code == 4
    assert str(path) in raised.value.message
    assert "do not use this file" in raised.value.remedy


def test_odd_names_that_the_data_set_has_are_no_danger(tmp_path: Path) -> None:
    films = replace(FILMS, names=tuple(f"a\\{n}:\udcff\n.png" for n in range(80)))
    write_episodes(tmp_path / "episodes.json", films, some_episodes(films))
    assert plain(read_episodes(tmp_path / "episodes.json", films)) == plain(some_episodes(films))


def test_what_is_no_file_is_said_so(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (tmp_path / "none.json", "cannot read"),
        (tmp_path, "is not a file"),
        (tmp_path / "pipe", "is not a file"),
        (Path("a\0b"), "cannot read"),
    ):
        with pytest.raises(UsageError, match=words):
            read_episodes(path, FILMS)
