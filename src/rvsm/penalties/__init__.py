"""Penalties: value, proximal map and threshold of each."""

from rvsm.penalties.base import Penalty
from rvsm.penalties.capped_l1 import CappedL1
from rvsm.penalties.elastic import Elastic
from rvsm.penalties.l0 import L0
from rvsm.penalties.l1 import L1
from rvsm.penalties.l1_minus_l2 import L1MinusL2
from rvsm.penalties.log_sum import LogSum
from rvsm.penalties.lp import Lp
from rvsm.penalties.lp_closed import LHalf, LTwoThirds
from rvsm.penalties.mcp import MCP
from rvsm.penalties.scad import SCAD
from rvsm.penalties.transformed_l1 import TransformedL1

__all__ = [
    "L0",
    "L1",
    "MCP",
    "SCAD",
    "CappedL1",
    "Elastic",
    "L1MinusL2",
    "LHalf",
    "LTwoThirds",
    "LogSum",
    "Lp",
    "Penalty",
    "TransformedL1",
]  # fmt: skip
