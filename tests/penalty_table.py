"""Every penalty, in one table for all tests, and the user's own that the documents show."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

import rvsm
from rvsm.groups import Filters, Grouped, SparseGroup
from rvsm.penalties import (
    L0,
    L1,
    MCP,
    SCAD,
    CappedL1,
    Elastic,
    L1MinusL2,
    LHalf,
    LogSum,
    Lp,
    LTwoThirds,
    Penalty,
    TransformedL1,
)

PAGE = Path(__file__).parent.parent / "docs" / "penalties.md"


def of_a_user() -> Penalty:
    """The user's own penalty that the documents show."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    namespace: dict[str, object] = {"__name__": __name__, "torch": torch, "rvsm": rvsm}
    exec(next(block for block in blocks if "class L0L1" in block), namespace)
    return namespace["L0L1"]()


PENALTIES = [
    L0(),
    L1(),
    TransformedL1(a=1e-3),
    TransformedL1(a=0.3),
    TransformedL1(),
    TransformedL1(a=10.0),
    TransformedL1(a=1e4),
    LHalf(),
    LTwoThirds(),
    Lp(p=0.05),
    Lp(p=0.5),
    Lp(p=0.9),
    MCP(gamma=0.05),
    MCP(gamma=0.3),
    MCP(),
    MCP(gamma=10.0),
    SCAD(),
    SCAD(a=2.1, knee=0.05),
    SCAD(a=3.0, knee=0.2),
    LogSum(eps=1e-3),
    LogSum(eps=0.3),
    LogSum(eps=5.0),
    CappedL1(theta=0.05),
    CappedL1(theta=0.4),
    CappedL1(theta=3.0),
    Elastic(L1(), ridge=0.5),
    Elastic(L0(), ridge=2.0),
    Elastic(MCP(gamma=0.5), ridge=1.0),
    of_a_user(),
]
OURS = PENALTIES[:-1]

WHOLE = [
    L1MinusL2(),
    L1MinusL2(alpha=0.5),
    Grouped(L0(), Filters()),
    Grouped(L1(), Filters()),
    Grouped(TransformedL1(a=0.3), Filters()),
    Elastic(Grouped(MCP(gamma=0.5), Filters()), ridge=0.5),
    SparseGroup(L0(), Filters(), ratio=0.5),
    SparseGroup(L1(), Filters(), ratio=0.5),
    SparseGroup(SCAD(knee=0.2), Filters(), ratio=2.0),
]
"""Penalties that look at a tensor as a whole."""


def elementwise(penalty: Penalty, x: Tensor) -> Tensor:
    """Return what every element costs by itself."""
    return torch.vmap(penalty.value)(x.flatten()).view(x.shape)
