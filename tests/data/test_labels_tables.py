"""The text of a table: delimiter, encoding, compression, and everything that is no table at all."""

from __future__ import annotations

import csv
import errno
import gzip
import io
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from scarce_cli.data import labels_tables
from scarce_cli.data.labels import Labels, read_labels
from scarce_cli.data.labels_tables import open_table
from scarce_cli.errors import DamagedData, ResourceError, ScarceError, UsageError

TABLE = "image,patient_id,findings\nä.png,P1,Ödem\nb.png,P2,No Finding\n"


def put(folder: Path, content: str | bytes, name: str = "labels.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_every_delimiter_and_encoding_reads_the_same(
    tmp_path: Path, delimiter: str, encoding: str, compressed: bool, newline: str
) -> None:
    data = TABLE.replace(",", delimiter).replace("\n", newline).encode(encoding)
    labels = read_labels(put(tmp_path, gzip.compress(data) if compressed else data))
    assert labels.images == ("ä.png", "b.png")
    assert labels.patients == ("P1", "P2")
    assert labels.findings == (frozenset({"Ödem"}), frozenset({"No Finding"}))
    assert labels.problems == (("the table is not UTF-8: read as Latin-1",) if encoding == "latin-1" else ())


def test_a_comma_in_a_quoted_header_does_not_beat_the_real_delimiter(tmp_path: Path) -> None:
    path = put(tmp_path, 'image;"size, in px, as stored, raw";patient;label\na.png;3,4,5;P1;Mass\n')
    assert open_table(path, ["image", "patient", "label"]).delimiter == ";"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n", "blank line"),
        (b"image,patient_id,findings\n", "no usable row"),
        (b"image,patient_id,findings\n\n,,\n", "no usable row"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "no image column"),
        (b"PK\x03\x04\x14\x00\x06\x00" + bytes(100), "not a text table"),
        (bytes(range(256)) * 8, "not a text table"),
        (b'image,findings\na.png,"' + b"x" * 200_000, "cannot read line 2"),
    ],
)
def test_what_is_no_table_is_a_usage_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = put(tmp_path, content)
    with pytest.raises(UsageError, match=message) as caught:
        read_labels(path)
    assert str(path) in caught.value.message
    assert caught.value.remedy


def test_a_missing_file_a_folder_and_a_pipe_are_usage_errors(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path / "none.csv", tmp_path, tmp_path / "none.csv" / "x", pipe, Path("a\0b")):
        with pytest.raises(UsageError):
            read_labels(path)


def test_an_unreadable_file_is_a_resource_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(labels_tables, "_open_bytes", refuse)  # root may read everything, so chmod shows nothing
    with pytest.raises(ResourceError, match=r"cannot read .*: Permission denied"):
        read_labels(put(tmp_path, TABLE))


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: data[:40] + b"\xff" * 8 + data[48:]])
def test_a_damaged_gzip_is_damaged_data(tmp_path: Path, damage: object) -> None:
    data = gzip.compress((TABLE * 50).encode())
    with pytest.raises(DamagedData, match="gzip"):
        read_labels(put(tmp_path, damage(data)))  # type: ignore[operator]


def test_a_gzip_bomb_stops_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels_tables, "MAX_BYTES", 1 << 20)
    with pytest.raises(UsageError, match="more than 1 MiB"):
        read_labels(put(tmp_path, gzip.compress(bytes(8 << 20))))


def test_too_many_rows_stop_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels_tables, "MAX_ROWS", 1)
    with pytest.raises(UsageError, match="more than 1 rows"):
        read_labels(put(tmp_path, TABLE))


def test_the_csv_module_keeps_its_own_limit(tmp_path: Path) -> None:
    before = csv.field_size_limit(12_345)
    try:
        read_labels(put(tmp_path, TABLE))
        with pytest.raises(UsageError):
            read_labels(put(tmp_path, b'image,findings\na.png,"' + b"x" * 200_000))
        assert csv.field_size_limit() == 12_345
    finally:
        csv.field_size_limit(before)


def attempt(path: Path) -> tuple[Labels | None, ScarceError | None]:
    try:
        return read_labels(path), None
    except ScarceError as error:
        return None, error


_FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_FUZZ
@given(st.binary(max_size=300), st.booleans())
@example(b"image;findings\n\xff;a", True)
@example(b"\xff\xfei", True)
@example(b"\x1f\x8b", False)
@example(b"image,findings\n[,[", False)
def test_no_bytes_end_in_anything_but_our_own_errors(tmp_path: Path, data: bytes, header: bool) -> None:
    labels, error = attempt(put(tmp_path, b"image,patient,findings\n" + data if header else data))
    if labels is not None:
        assert labels.images
        assert all(labels.patients)
    else:
        assert error is not None
        assert error.exit_code in (2, 4, 5)
        assert error.remedy


@_FUZZ
@given(st.text(alphabet="a1/.\\,;\t\"'[]|\n\r \0:-", max_size=120))
def test_no_text_of_tricks_ends_in_anything_but_our_own_errors(tmp_path: Path, body: str) -> None:
    labels, error = attempt(put(tmp_path, "image,patient,findings\n" + body))
    if labels is None:
        assert error is not None
        assert error.exit_code in (2, 4)
    else:
        assert not any(image.startswith("/") or ".." in image.split("/") for image in labels.images)


_WORD = st.text(alphabet=st.characters(codec="latin-1", categories=["L", "N"]), min_size=1, max_size=8)
_CELL = st.text(alphabet=st.characters(codec="latin-1", exclude_categories=["C"]), max_size=12)


@_FUZZ
@given(
    rows=st.lists(st.tuples(_WORD, _WORD, st.sets(_WORD, min_size=1, max_size=3), _CELL), min_size=1, max_size=8),
    delimiter=st.sampled_from([",", ";", "\t"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "latin-1"]),
    listed=st.booleans(),
)
def test_what_the_csv_module_wrote_is_read_back(
    tmp_path: Path,
    rows: list[tuple[str, str, set[str], str]],
    delimiter: str,
    encoding: str,
    listed: bool,
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(["Report", "ImageID", "PatientID", "Labels"])
    for number, (image, patient, findings, report) in enumerate(rows):
        cell = str(sorted(findings)) if listed else "|".join(sorted(findings))
        writer.writerow([report, f"{number}_{image}.png", f"p{patient}", f"{cell}" if listed else f" x|{cell}"])
    labels = read_labels(put(tmp_path, text.getvalue().encode(encoding)))
    assert labels.images == tuple(f"{number}_{row[0]}.png" for number, row in enumerate(rows))
    assert labels.patients == tuple(f"p{row[1]}" for row in rows)
    assert labels.findings == tuple(frozenset(row[2] | (set() if listed else {"x"})) for row in rows)
