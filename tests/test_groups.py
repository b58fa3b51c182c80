"""Groups: the protocol and its simplest member."""

from __future__ import annotations

import torch

from rvsm.groups import Elements, Groups
from rvsm.penalties import L1


def test_elements_are_groups_of_one():
    x = torch.tensor([[3.0, -0.5], [0.0, -2.0]])
    groups = Elements()
    assert isinstance(groups, Groups)
    assert groups == Elements()
    assert torch.equal(groups.norms(x), x.abs())
    assert torch.equal(groups.spread(groups.norms(x).flatten() > 1, x), x.abs() > 1)
    assert groups.value(L1(), x) == 5.5
    assert torch.equal(groups.prox(L1(), x, 1.0), torch.tensor([[2.0, 0.0], [0.0, -1.0]]))
