"""Which files are films, what links may do, and names of every kind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scarce_cli.data.sources import (
    Source,
    check_outputs,
    default_folder,
    in_shard,
    list_sources,
    output_name,
    printable,
)
from scarce_cli.errors import UsageError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def paths(root: Path, follow: bool = False) -> list[str]:
    return [source.path for source in list_sources(root, follow_links=follow)]


def test_nested_sorted_without_papers_and_hidden_files(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.png", "a/1.dcm", "a/no_suffix", "labels.csv", "LICENSE", ".DS_Store", "b/.git/x.png")
    assert paths(tmp_path) == ["a/1.dcm", "a/no_suffix", "b/2.png"]


@pytest.mark.parametrize("kind", ["missing", "empty", "papers", "file"])
def test_no_film_is_a_usage_error(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "films"
    if kind == "file":
        root.write_bytes(b"x")
    elif kind != "missing":
        root.mkdir()
        touch(root, *(["notes.txt"] if kind == "papers" else []))
    with pytest.raises(UsageError, match="films"):
        list_sources(root)


def test_a_loop_ends_and_inner_links_are_visited_once(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "again.png").symlink_to(tmp_path / "a" / "1.png")
    for follow in (False, True):
        assert paths(tmp_path, follow) == ["a/1.png"]


def test_a_link_that_leaves_needs_permission(tmp_path: Path) -> None:
    root = touch(tmp_path / "root", "1.png")
    elsewhere = touch(tmp_path / "elsewhere", "2.png", "deep/3.png")
    (root / "link.png").symlink_to(elsewhere / "2.png")
    (root / "folder").symlink_to(elsewhere / "deep")
    refused = [source.path for source in list_sources(root) if "leaves the source folder" in source.problem]
    assert refused == ["folder", "link.png"]
    allowed = list_sources(root, follow_links=True)
    assert [source.path for source in allowed] == ["1.png", "folder/3.png", "link.png"]
    assert not any(source.problem for source in allowed)


def test_links_to_a_parent_do_not_visit_everything_again(tmp_path: Path) -> None:
    root = touch(tmp_path / "root", "1.png")
    (root / "parent").symlink_to(tmp_path)
    assert paths(root, follow=True) == ["1.png"]


def test_a_broken_link_is_a_problem_of_its_own(tmp_path: Path) -> None:
    touch(tmp_path / "root", "1.png")
    (tmp_path / "root" / "gone.png").symlink_to("/nowhere/at/all.png")
    found = list_sources(tmp_path / "root", follow_links=True)
    assert [source.path for source in found if "cannot be read" in source.problem] == ["gone.png"]


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    touch(tmp_path, "1.png")
    os.mkfifo(tmp_path / "2.png")
    assert [source.problem for source in list_sources(tmp_path)] == ["", "not a regular file"]


def test_any_name_works(tmp_path: Path) -> None:
    names = ["ü ñ.png", "line\nbreak.png", os.fsdecode(b"latin\xe9.png"), "tab\t.png"]
    touch(tmp_path, *names)
    assert sorted(paths(tmp_path)) == sorted(names)
    assert all(printable(name).isprintable() for name in names)
    assert printable("ü ñ.png") == "ü ñ.png"
    assert printable("a\x1b[31m.png") == "a\\x1b[31m.png"


def test_outputs_keep_the_nesting_and_never_collide_silently() -> None:
    assert output_name("a/b.png") == "images/a/b.png"
    assert output_name("a/b.jpg") == "images/a/b.jpg.png"
    check_outputs([Source("a.jpg", 1, 1), Source("a.tif", 1, 1), Source("a.png", 1, 1)])
    with pytest.raises(UsageError, match=r"'a\.jpg' and 'a\.jpg\.png'"):
        check_outputs([Source("a.jpg", 1, 1), Source("a.jpg.png", 1, 1)])


def test_shards_divide_by_name_alone() -> None:
    names = [f"{number}.png" for number in range(300)]
    parts = [[name for name in names if in_shard(name, (part, 3))] for part in (1, 2, 3)]
    assert sorted(name for part in parts for name in part) == sorted(names)
    assert min(map(len, parts)) > 60


@pytest.mark.parametrize(("source", "name"), [("nih", "nih"), ("a/nih/", "nih"), ("a/../b", "b"), ("/", "films")])
def test_default_folder_is_named_after_the_source(source: str, name: str) -> None:
    assert default_folder(Path(source), 256) == Path(f"{name}-256")


def test_default_folder_of_the_folder_that_one_is_in(tmp_path: Path) -> None:
    assert default_folder(Path(), 64) == Path(f"{tmp_path.name}-64")
