"""What is measured: a metric has its definition, from which :data:`METRICS` is made, in ``definitions.py``.

Computed from joint policies and from play in ``evaluation.py``, from curves in ``curves.py``, from
learning rules in ``rules.py``; what its scale is on each game, in ``anchors.py``.
"""

from shaping_bench.metrics.curves import convergence
from shaping_bench.metrics.definitions import (
    CURVE_METRICS,
    METRICS,
    OBSERVABLES,
    Metric,
    definition,
    observable_names,
    reward_range,
)
from shaping_bench.metrics.evaluation import evaluate, from_play
from shaping_bench.metrics.rules import RULE_METRICS, consistency, consistency_cosine, update_cosine

__all__ = [
    "CURVE_METRICS",
    "METRICS",
    "OBSERVABLES",
    "RULE_METRICS",
    "Metric",
    "consistency",
    "consistency_cosine",
    "convergence",
    "definition",
    "evaluate",
    "from_play",
    "observable_names",
    "reward_range",
    "update_cosine",
]
