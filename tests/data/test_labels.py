"""Columns, findings and rows of a table of labels; faults B1 and B2."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

import pytest

from scarce_cli.data import labels as labels_module
from scarce_cli.data.labels import Labels, read_labels
from scarce_cli.errors import UnsafeInput, UsageError

NIH = """\
Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,\
OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]
00000001_000.png,Cardiomegaly,0,1,57,M,PA,2682,2749,0.14300000000000002,0.14300000000000002
00000001_001.png,Cardiomegaly|Emphysema,1,1,58,M,AP,2894,2729,0.14300000000000002,0.14300000000000002
00000002_000.png,No Finding,0,2,80,M,PA,2500,2048,0.171,0.171
"""
PADCHEST = """\
,ImageID,ImageDir,PatientID,ViewPosition_DICOM,Projection,MethodLabel,Labels,labelCUIS
0,1_a.png,0,9871,POSTEROANTERIOR,PA,Physician,['normal'],[]
1,1_b.png,0,9871,LATERAL,L,Physician,"['hiatal hernia', ' fibrotic band', '']",['C1' 'C2']
2,2_a.png,1,22,nan,AP,RNN_model,,[]
3,3_a.png,1,33,nan,UNK,RNN_model,nan,nan
4,4_a.png,1,44,nan,,RNN_model,[''],[]
5,5_a.png,1,55,nan,PA,RNN_model,"[""Kerley's B lines"", 'a|b', 'it\\'s']",[]
6,6_a.png,1,66,nan,PA,RNN_model,"['unclosed, 'x]",[]
7,7_a.png,1,77,nan,PA,RNN_model,"[__import__('os').getcwd()]",[]
8,8_a.png,1,88,nan,PA,RNN_model,[],[]
"""


def read(folder: Path, text: str) -> Labels:
    path = folder / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return read_labels(path)


def test_nih(tmp_path: Path) -> None:
    labels = read(tmp_path, NIH)
    assert labels.images == ("00000001_000.png", "00000001_001.png", "00000002_000.png")
    assert labels.patients == ("1", "1", "2")
    assert labels.views == ("PA", "AP", "PA")
    assert labels.findings[1] == {"Cardiomegaly", "Emphysema"}
    assert labels.names() == {"Cardiomegaly": 2, "Emphysema": 1, "No Finding": 1}
    assert next(iter(labels.names())) == "Cardiomegaly"
    assert labels.problems == ()
    assert labels.path == tmp_path / "labels.csv"


def test_padchest(tmp_path: Path) -> None:
    labels = read(tmp_path, PADCHEST)
    found = dict(zip(labels.images, labels.findings, strict=True))
    assert found == {
        "1_a.png": {"normal"},
        "1_b.png": {"hiatal hernia", "fibrotic band"},
        "2_a.png": set(),
        "3_a.png": set(),
        "4_a.png": set(),
        "5_a.png": {"Kerley's B lines", "a|b", "it's"},
        "8_a.png": set(),
    }
    assert labels.views == ("PA", "L", "AP", "UNK", "", "PA", "PA")
    assert [problem.split(":")[0] for problem in labels.problems[:2]] == ["line 8", "line 9"]
    assert labels.problems[2].startswith("4 films have no finding")
    assert "first: line 4" in labels.problems[2]


def test_a_gzip_file_is_known_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "table.txt"
    path.write_bytes(gzip.compress(NIH.encode()))
    assert len(read_labels(path).images) == 3


@pytest.mark.parametrize("image", ["image", "Image Index", "ImageID", "FILENAME", "path", "File", "image_path"])
@pytest.mark.parametrize("patient", ["patient_id", "Patient ID", "PatientID", "patient"])
@pytest.mark.parametrize("findings", ["findings", "Finding Labels", "Labels", "LABEL", "finding"])
def test_column_names(tmp_path: Path, image: str, patient: str, findings: str) -> None:
    labels = read(tmp_path, f"{findings},age,{patient},{image}\nMass| Nodule ,3,P1,a/b.png\n")
    assert (labels.images, labels.patients) == (("a/b.png",), ("P1",))
    assert labels.findings == (frozenset({"Mass", "Nodule"}),)


def test_one_column_per_finding(tmp_path: Path) -> None:
    labels = read(
        tmp_path,
        "Path,Sex,Age,Edema,Pneumonia,Support Devices,note\n"
        "a.png,F,68,1.0,,0.0,\nb.png,M,1,0,1,true,1\nc.png,F,70,-1.0,0,0,see report\n",
    )
    assert labels.findings == (frozenset({"Edema"}), frozenset({"Pneumonia", "Support Devices"}), frozenset())
    assert labels.names() == {"Edema": 1, "Pneumonia": 1, "Support Devices": 1}
    assert any("'note' holds 'see report'" in problem and "line 4" in problem for problem in labels.problems)


def test_without_a_patient_column_every_film_is_its_own_patient(tmp_path: Path) -> None:
    labels = read(tmp_path, "image,findings\na.png,Mass\nb.png,Mass\n")
    assert labels.patients == ("a.png", "b.png")
    assert "no patient column" in labels.problems[0]


def test_an_empty_patient_is_not_shared(tmp_path: Path) -> None:
    labels = read(tmp_path, "image,patient,findings\na.png,nan,Mass\nb.png,,Mass\nc.png,P1,Mass\n")
    assert labels.patients == ("a.png", "b.png", "P1")


@pytest.mark.parametrize(
    ("header", "missing"),
    [("patient_id,findings,age", "image"), ("image,patient_id,age", "findings")],
)
def test_a_missing_column_is_named_with_what_was_found(tmp_path: Path, header: str, missing: str) -> None:
    with pytest.raises(UsageError, match=f"no {missing} column") as caught:
        read(tmp_path, f"{header}\na,b,7\n")
    assert all(repr(name) in caught.value.message for name in header.split(","))
    assert "findinglabels" in caught.value.remedy or "imageindex" in caught.value.remedy


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="2 columns named 'image'"):
        read(tmp_path, "image,Image,findings\na,b,c\n")


@pytest.mark.parametrize(
    "path",
    [
        *("/etc/passwd", "../x.png", "a/../../x.png", "a/..", "C:x.png", "c:/x.png", "a\\b.png"),
        *("..\\x.png", "a\0.png", "//host/x.png", "\\\\host\\x.png"),
    ],
)
def test_b1_a_path_that_leaves_the_folder_is_refused_by_line(tmp_path: Path, path: str) -> None:
    with pytest.raises(UnsafeInput, match="line 3") as caught:
        read(tmp_path, f"image,patient_id,findings\nok.png,P1,Mass\n{path},P2,Mass\n")
    assert caught.value.exit_code == 4
    assert "\0" not in caught.value.message


def test_b1_names_that_only_look_unsafe_are_kept(tmp_path: Path) -> None:
    labels = read(tmp_path, "image,findings\na..b.png,Mass\n...,Mass\n~x/y.png,Mass\nä b/c.png,Mass\n")
    assert labels.images == ("a..b.png", "...", "~x/y.png", "ä b/c.png")


def test_b2_ragged_and_empty_rows_are_reported_by_line(tmp_path: Path) -> None:
    labels = read(
        tmp_path,
        "image,patient_id,findings\na.png,P1,Mass\nb.png,P2\n\n,,\nc.png,P3,Mass,,\nd.png,P4,Mass,extra\n"
        'e.png,P5,"Mass\nMass"\nf.png,P6,\n',
    )
    assert labels.images == ("a.png", "c.png", "e.png", "f.png")
    assert labels.problems[:3] == (
        "line 3: 2 fields, 3 expected; row skipped",
        "line 5: no image is named; row skipped",
        "line 7: 4 fields, 3 expected; row skipped",
    )


def test_b2_an_unclosed_quote_takes_its_rows_with_it_and_says_which(tmp_path: Path) -> None:
    labels = read(tmp_path, 'image,patient_id,findings\na.png,P1,Mass\nb.png,P2,"Mass\nc.png,P3,Mass\nd.png,P4,Mass\n')
    assert labels.images == ("a.png",)
    assert labels.problems == ("lines 3 to 5: a quote is not closed; row skipped",)


def test_b2_equal_rows_are_one_and_different_findings_are_joined(tmp_path: Path) -> None:
    labels = read(
        tmp_path,
        "image,patient_id,findings\na.png,P1,Mass\n./a.png,P1,Mass\nb.png,P2,Mass\nb.png,P2,Nodule\nb.png,P2,\n",
    )
    assert labels.images == ("a.png", "b.png")
    assert labels.findings == (frozenset({"Mass"}), frozenset({"Mass", "Nodule"}))
    assert len(labels.problems) == 2
    assert labels.problems[0].startswith("line 5: 'b.png' stands on line 4 too")


def test_b2_rows_that_contradict_each_other_leave_the_film_out(tmp_path: Path) -> None:
    labels = read(
        tmp_path,
        "image,patient_id,findings\na.png,P1,Mass\na.png,P2,Mass\na.png,P1,Mass\n"
        "b.png,P3,Mass\nb.png,P3,No Finding\nc.png,P4,Mass\n",
    )
    assert labels.images == ("c.png",)
    assert "another patient" in labels.problems[0]
    assert "with and without a finding" in labels.problems[1]


def test_further_columns_are_kept_as_written(tmp_path: Path) -> None:
    labels = read(tmp_path, NIH)
    assert dict(labels.columns) == {
        "Follow-up #": ("0", "1", "0"),
        "Patient Age": ("57", "58", "80"),
        "Patient Gender": ("M", "M", "M"),
        "View Position": ("PA", "AP", "PA"),
        "OriginalImage[Width": ("2682", "2894", "2500"),
        "Height]": ("2749", "2729", "2048"),
        "OriginalImagePixelSpacing[x": ("0.14300000000000002", "0.14300000000000002", "0.171"),
        "y]": ("0.14300000000000002", "0.14300000000000002", "0.171"),
    }
    padchest = read(tmp_path, PADCHEST).columns
    assert set(padchest) == {"ImageDir", "ViewPosition_DICOM", "Projection", "MethodLabel", "labelCUIS"}
    assert padchest["ViewPosition_DICOM"][:3] == ("POSTEROANTERIOR", "LATERAL", "nan")


def test_columns_that_are_findings_are_no_further_columns(tmp_path: Path) -> None:
    labels = read(tmp_path, "path,Sex,view,Edema,Mass,score\na.png,F,PA,1,0,1\nb.png,M,AP,0,,2.5\n")
    assert labels.names() == {"Edema": 1}
    assert dict(labels.columns) == {"Sex": ("F", "M"), "view": ("PA", "AP"), "score": ("1", "2.5")}


def test_further_columns_follow_their_films_and_say_when_a_name_is_taken(tmp_path: Path) -> None:
    labels = read(
        tmp_path,
        "image,patient,label,source,,source\na.png,1,Mass, north ,x,y\nb.png,2\nc.png,3,Mass,south,x,y\n"
        "a.png,1,Mass,west,x,y\nd.png,4,Mass,,x,y\nc.png,9,Mass,south,x,y\n",
    )
    assert labels.images == ("a.png", "d.png")
    assert dict(labels.columns) == {"source": ("north", "")}
    assert "column 6 is another 'source': ignored" in labels.problems


def test_a_flood_of_bad_rows_is_counted_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels_module, "_MAX_PROBLEMS", 5)
    labels = read(tmp_path, "image,patient_id,findings\n" + "a\n" * 20 + "a.png,P1,Mass\n")
    assert labels.problems[5:] == ("and 15 more problems",)


def test_the_order_of_columns_and_rows_does_not_matter(tmp_path: Path) -> None:
    head, *rows = [["i", "image", "patient", "label"], ["0", "a", "P", "x|y"], ["1", "b", "Q", "z"]]
    forward = read(tmp_path, "\n".join(",".join(row) for row in [head, *rows]))
    backward = read(tmp_path, "\n".join(",".join(row[::-1]) for row in [head, *rows[::-1]]))
    assert set(zip(forward.images, forward.patients, forward.findings, strict=True)) == set(
        zip(backward.images, backward.patients, backward.findings, strict=True)
    )


@pytest.mark.cxr
def test_the_real_tables(cxr: Path) -> None:
    own = read_labels(cxr / "labels.csv")
    assert (len(own.images), len(set(own.patients)), own.problems) == (6102, 3111, ())
    assert own.names()["Bacterial pneumonia"] == 2063
    assert Counter(own.columns["note"])["paediatric"] == 4354
    nih = read_labels(cxr / "nih_Data_Entry_2017_v2020.csv.gz")
    assert (len(nih.images), len(set(nih.patients)), nih.problems) == (112_120, 30_805, ())
    assert nih.names()["No Finding"] == 60_361
    assert len(nih.columns) == 8
    ages = nih.columns["Patient Age"]
    assert len(ages) == 112_120
    assert len({id(age) for age in ages}) == len(set(ages))  # equal cells are one string


def test_columns_of_0_and_1_say_what_is_absent(tmp_path: Path) -> None:
    """A film with noughts alone is known to show none of the findings; one with empty cells is not."""
    table = tmp_path / "wide.csv"
    table.write_text("image,patient,Mass,Nodule,age\na,1,0,0,50\nb,2,,,0\nc,3,1,,50\nd,4,,0.0,51\ne,5,-1,,52\n")
    labels = read_labels(table)
    assert labels.stated == (True, False, True, True, False)
    table.write_text("image,patient,findings,other\na,1,Mass,0\nb,2,,0\n")
    assert read_labels(table).stated == (True, False)
