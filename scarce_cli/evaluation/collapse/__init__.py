"""Does an encoder still tell films apart? Measures of its features, and what they mean together.

Everything public is to be imported from here.
"""

from scarce_cli.evaluation.collapse.geometry import (
    alignment,
    dimension_std,
    l2_normalize,
    mean_pairwise_cosine,
    uniformity,
)
from scarce_cli.evaluation.collapse.measures import CollapseMetrics, collapse_metrics, quick_metrics
from scarce_cli.evaluation.collapse.spectrum import (
    effective_rank,
    entropy_rank,
    numerical_rank,
    rankme,
    singular_values,
)
from scarce_cli.evaluation.collapse.verdict import Verdict, verdict

__all__ = [
    "CollapseMetrics",
    "Verdict",
    "alignment",
    "collapse_metrics",
    "dimension_std",
    "effective_rank",
    "entropy_rank",
    "l2_normalize",
    "mean_pairwise_cosine",
    "numerical_rank",
    "quick_metrics",
    "rankme",
    "singular_values",
    "uniformity",
    "verdict",
]
