"""Tasks that somebody published: which findings, of which films, against what (``--task``)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from scarce_cli.errors import UsageError
from scarce_cli.evaluation.fewshot.choosing import Kept, resolve_finding
from scarce_cli.evaluation.fewshot.films import Bools, Films

_LISTED = 20  # projections in a message


@dataclass(frozen=True)
class TaskPreset:
    """A published choice of films and findings."""

    name: str
    findings: tuple[str, ...]
    views: tuple[str, ...]  # projections that are taken, as the table writes them
    single_label: bool  # only films with exactly one label
    against: str  # what the films that show none of ``findings`` are called
    about: str  # where it comes from and how it differs, for the report

    def select(self, films: Films) -> Kept:
        """The films that pass the published filters.

        Raises:
            UsageError: a filter leaves none.
        """
        frontal: Bools = np.array([view in self.views for view in films.views], bool)
        if not frontal.any():
            views = Counter(view or "(empty)" for view in films.views).most_common(_LISTED)
            listed = ", ".join(f"{view[:40]!r} ({count:,})" for view, count in views)
            raise UsageError(
                f"--task {self.name} takes films with the projection {' or '.join(self.views)}, and there are none",
                f"projections in the table: {listed}; without --task, findings and films are your choice",
            )
        asked = [(f"projection {' or '.join(self.views)}", int(frontal.sum()))]
        keep = frontal
        if self.single_label:
            keep = frontal & np.array([len(names) == 1 for names in films.findings], bool)
            asked.append(("exactly one label", int(keep.sum())))
        if not keep.any():
            raise UsageError(f"--task {self.name}: no film has exactly one label", "is it the right table?")
        return Kept(np.flatnonzero(keep), tuple(asked), len(films))

    def present(self, films: Films) -> tuple[list[str], list[str]]:
        """Its findings as the table spells them, and those that no film has.

        Raises:
            UsageError: no film has any of them.
        """
        found, missing = [], []
        for name in self.findings:
            try:
                found.append(resolve_finding(films, name))
            except UsageError:
                missing.append(name)
        if not found:
            raise UsageError(
                f"--task {self.name}: no film has one of its findings ({', '.join(self.findings)})",
                "is it the right table?",
            )
        return found, missing

    def name_others(self, films: Films) -> Films:
        """The same films, where those with labels, but none of its findings, bear the label ``against`` too."""
        findings = {*self.present(films)[0]}
        named = (names | {self.against} if names and not names & findings else names for names in films.findings)
        return replace(films, findings=tuple(named))


PADCHEST_RARE = TaskPreset(
    name="padchest-rare",
    findings=(
        *("bronchiectasis", "calcified granuloma", "callus rib fracture", "fibrotic band"),
        *("hemidiaphragm elevation", "hiatal hernia", "interstitial pattern", "pulmonary fibrosis"),
        *("pulmonary mass", "reticular interstitial pattern"),
    ),
    views=("PA", "AP"),
    single_label=True,
    against="none of the ten findings",
    about=(
        "The ten rare findings of PadChest as in the SCARCE-CXR series: films of the projections PA and AP with "
        "exactly one label, each finding against films with none of the ten. Split and draws are not the published "
        "ones, and all test films are tested on, not as many without a finding as with it."
    ),
)
"""The ten findings of the SCARCE-CXR series (its finetune/_data.py and its table of results).

What the published code does: it takes films on the disk whose ``Projection`` is PA or AP (not AP_horizontal) and
whose ``Labels`` hold exactly one entry. Patients go to the test part by an MD5 of their number, one in five. A class
needs 15 films to learn from and 6 to be tested on; pulmonary fibrosis is taken with 4. Films without are drawn from
films that pass the same filters and show none of the classes, normal ones and devices among them, at most 5,000 and
2,000, as many as there are with the finding, for learning and for testing.

Here the same, apart from this: PadChest's lists hold empty entries, which the published count takes for labels and
ours does not; the published code cannot read a list with an apostrophe in a name; films without are not capped; all
are tested on.

Unknown: which of PadChest's archives the published table of ten findings was made from (an earlier one with 13
findings: 8 archives, 58,337 films); why consolidation, granuloma and rib fracture were left out of it, and whether
films that show them then count as films without (here they do).
"""

TASKS: Mapping[str, TaskPreset] = {preset.name: preset for preset in (PADCHEST_RARE,)}
