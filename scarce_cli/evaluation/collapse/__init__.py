"""Does an encoder still tell films apart? Measures of its features, and what they mean together.

Everything public is to be imported from here.
"""

from scarce_cli.evaluation.collapse.geometry import (
    alignment,
    dead_dimensions,
    dimension_std,
    l2_normalize,
    mean_pairwise_cosine,
    retrieval,
    uniformity,
)
from scarce_cli.evaluation.collapse.lidar import lidar
from scarce_cli.evaluation.collapse.log import RANDOM, READING, random_line, reading_line, readings_of
from scarce_cli.evaluation.collapse.measures import CollapseMetrics, collapse_metrics, quick_metrics
from scarce_cli.evaluation.collapse.reading import Reading, summed_up
from scarce_cli.evaluation.collapse.spectrum import (
    PowerLaw,
    effective_rank,
    entropy_rank,
    numerical_rank,
    power_law,
    rankme,
    singular_values,
    spectrum,
)
from scarce_cli.evaluation.collapse.verdict import Verdict, is_confirmed, judge

__all__ = [
    "RANDOM",
    "READING",
    "CollapseMetrics",
    "PowerLaw",
    "Reading",
    "Verdict",
    "alignment",
    "collapse_metrics",
    "dead_dimensions",
    "dimension_std",
    "effective_rank",
    "entropy_rank",
    "is_confirmed",
    "judge",
    "l2_normalize",
    "lidar",
    "mean_pairwise_cosine",
    "numerical_rank",
    "power_law",
    "quick_metrics",
    "random_line",
    "rankme",
    "reading_line",
    "readings_of",
    "retrieval",
    "singular_values",
    "spectrum",
    "summed_up",
    "uniformity",
]
