"""Penalties: value, proximal map and threshold of each."""

from rvsm.penalties.base import Penalty
from rvsm.penalties.l0 import L0
from rvsm.penalties.l1 import L1
from rvsm.penalties.transformed_l1 import TransformedL1

__all__ = ["L0", "L1", "Penalty", "TransformedL1"]
