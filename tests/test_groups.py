"""Groups: the protocol and its simplest member."""

from __future__ import annotations

import pytest
import torch

from rvsm import RVSM, Rule
from rvsm.errors import RuleError
from rvsm.groups import Elements, Groups, InputChannels
from rvsm.penalties import L0, L1, Penalty, TransformedL1


def test_elements_are_groups_of_one():
    x = torch.tensor([[3.0, -0.5], [0.0, -2.0]])
    groups = Elements()
    assert isinstance(groups, Groups)
    assert groups == Elements()
    assert torch.equal(groups.norms(x), x.abs())
    assert torch.equal(groups.spread(groups.norms(x).flatten() > 1, x), x.abs() > 1)
    assert groups.value(L1(), x) == 5.5
    assert torch.equal(groups.prox(L1(), x, 1.0), torch.tensor([[2.0, 0.0], [0.0, -1.0]]))


def channels_by_loop(x: torch.Tensor, positions: int) -> list[torch.Tensor]:
    """Indices of the elements of each group, one loop per group."""
    index = torch.arange(x.numel()).view(x.shape)
    if x.dim() > 2:
        return [index[:, c].flatten() for c in range(x.shape[1])]
    starts = range(0, x.shape[1], positions)
    return [index[:, start : start + positions].flatten() for start in starts]


@pytest.mark.parametrize(("shape", "positions"), [((4, 5, 3, 3), 1), ((2, 12), 4), ((3, 6), 1)])
@pytest.mark.parametrize("penalty", [L0(), L1(), TransformedL1(a=1.0)])
def test_input_channels_against_a_loop(
    shape: tuple[int, ...], positions: int, penalty: Penalty
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    x[:, :positions] = 0
    groups = InputChannels(positions)
    members = channels_by_loop(x, positions)
    norms = torch.stack([x.flatten()[m].norm() for m in members])
    torch.testing.assert_close(groups.norms(x), norms)
    torch.testing.assert_close(groups.value(penalty, x), penalty.value(norms))
    mu = 0.3 * float(norms.max()) ** 2
    expected = x.clone().flatten()
    for m, norm in zip(members, norms, strict=True):
        if norm > 0:
            expected[m] *= penalty.prox(norm, mu) / norm
    torch.testing.assert_close(groups.prox(penalty, x, mu), expected.view(shape))
    marks = groups.spread(torch.arange(len(members)), x).flatten()
    assert all(bool((marks[m] == number).all()) for number, m in enumerate(members))


def test_input_channels_that_do_not_divide() -> None:
    with pytest.raises(RuleError, match="size of the map"):
        InputChannels(5).norms(torch.zeros(2, 12))
    with pytest.raises(RuleError, match="size of the map"):
        InputChannels().norms(torch.zeros(3))


def test_a_share_of_groups_is_met_exactly_and_the_zeros_are_whole_groups() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(40, 2)
    optimizer = RVSM(
        torch.optim.SGD(model.named_parameters(), lr=0.1),
        [Rule("weight", L0(), groups=InputChannels(4), sparsity=0.7, beta=0.1)],
    )
    model(torch.randn(8, 40)).square().mean().backward()
    optimizer.step()
    optimizer.finalize()
    dead = (model.weight == 0).view(2, 10, 4)
    assert dead.all(2).all(0).sum() == 7
    assert dead.sum() == 7 * 8
