"""Cross-validation by people: who is judged was never seen, neither in training nor in choosing."""

from rvsm.experiments.crossval.settings import ARMS, DEFAULT_ARMS, Settings
from rvsm.experiments.crossval.study import crossval

__all__ = ["ARMS", "DEFAULT_ARMS", "Settings", "crossval"]
