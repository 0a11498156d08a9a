"""Published tasks: their films, their findings, and what they are held against."""

from __future__ import annotations

from pathlib import Path

import pytest

from scarce_cli.data.labels import read_labels
from scarce_cli.errors import UsageError
from scarce_cli.evaluation.fewshot.films import Films
from scarce_cli.evaluation.fewshot.tasks import PADCHEST_RARE, TASKS

PADCHEST = """\
,ImageID,PatientID,Projection,Labels
0,a.png,1,PA,['normal']
1,b.png,1,PA,"['hiatal hernia', '']"
2,c.png,2,AP,['Callus rib fracture ']
3,d.png,3,L,['hiatal hernia']
4,e.png,4,AP_horizontal,['hiatal hernia']
5,f.png,5,PA,"['hiatal hernia', 'pacemaker']"
6,g.png,6,PA,
7,h.png,7,PA,['pacemaker']
8,i.png,8,,['hiatal hernia']
"""


def films_of(folder: Path, text: str = PADCHEST) -> Films:
    (folder / "t.csv").write_text(text)
    labels = read_labels(folder / "t.csv")
    return Films(labels.images, labels.patients, labels.findings, labels.images, labels.views, labels.columns)


def test_padchest_rare_takes_frontal_films_with_one_label(tmp_path: Path) -> None:
    films = films_of(tmp_path)
    kept = TASKS["padchest-rare"].select(films)
    assert [films.names[i] for i in kept.films] == ["a.png", "b.png", "c.png", "h.png"]
    assert kept.report() == ["projection PA or AP: 6 of 9 films", "exactly one label: 4 of 6 films"]


def test_findings_that_are_there_and_those_that_are_not(tmp_path: Path) -> None:
    found, missing = PADCHEST_RARE.present(films_of(tmp_path))
    assert found == ["Callus rib fracture", "hiatal hernia"]
    assert len(missing) == 8
    assert "bronchiectasis" in missing


def test_each_finding_is_held_against_films_with_none_of_the_ten(tmp_path: Path) -> None:
    films = films_of(tmp_path)
    named = PADCHEST_RARE.name_others(films)
    others = [name for name, shown in zip(named.names, named.showing(PADCHEST_RARE.against), strict=True) if shown]
    assert others == ["a.png", "h.png"]
    assert [names - {PADCHEST_RARE.against} for names in named.findings] == [set(names) for names in films.findings]


def test_another_table_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    films = films_of(tmp_path, "image,label,view\na.png,Mass,AP\nb.png,Mass|Hernia,lateral\n")
    with pytest.raises(UsageError, match="one of its findings"):
        PADCHEST_RARE.present(films)
    lateral = films_of(tmp_path, "image,label,view\na.png,Mass,L\nb.png,Mass,\n")
    with pytest.raises(UsageError, match="projection PA or AP") as caught:
        PADCHEST_RARE.select(lateral)
    assert "'L' (1)" in caught.value.remedy
    two = films_of(tmp_path, "image,label,view\na.png,Mass|Hernia,PA\n")
    with pytest.raises(UsageError, match="exactly one label"):
        PADCHEST_RARE.select(two)
