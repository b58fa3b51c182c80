"""The recipe for few weights: what has won so far on validation images, one choice at a time.

The evidence is in ``docs/frontier.md`` under "What moves it", made from the rows in
``benchmarks/frontier/results``: errors on 10,000 images held out of MNIST's training set,
LeNet-300-100 with 98.7 % zeros (3,460 of 266,200 weights) and LeNet-5 with 99.67 % (1,421 of
430,500), one choice changed. LeNet-5 has two or three seeds, LeNet-300-100 one so far, and a tenth
of a point is its noise.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rvsm.errors import RuleError
from rvsm.groups import Filters, Rows
from rvsm.optim import RVSM, Budget, Cubic, Rule
from rvsm.optim.checks import check_steps
from rvsm.optim.rule import clean_name
from rvsm.penalties import L0, TransformedL1

GRAD_AT: Final[Literal["w", "u"]] = "u"
BETA: Final = 0.1
START: Final = 0.0
END: Final = 0.5
HEAL: Final = 0.75
UNITS_END: Final = 0.6
UNITS_SCALE: Final[Literal["none", "rms", "max", "mean"]] = "rms"
DISTILL: Final = 0.5
TEMPERATURE: Final = 4.0
# 2.4 % errors whatever end and heal are; distillation alone makes it 2.25, and 1.63 with images
# moved and bent, which alone make it 1.73. At w 1.99 % on plain images, but 1.71 with both; beta 1
# 2.22 and 2.27 at u and w, at w with both 1.83; transformed l1 2.78. Cubic magnitude 2.18, and 1.64
# with both. The schedule's shape and the budget: their rows are still to come. Whole units first:
# 1.53 % where single weights alone have 1.63, and 1.39 with layers compared by their largest weight
# afterwards; cubic magnitude after the same units 1.43.
# LeNet-5: 1.49 % on plain images, 1.26 with both, at w 1.59 and with beta 1 1.41; cubic magnitude
# 1.35. Whole units first 0.84, without distillation 0.92, by l0 0.87, cubic magnitude after the
# same units 0.90; there layers compared by their largest afterwards are worse, 1.05. Beta 0.01 has
# 0.96 without units and 0.97 after them (0.91 with 0.1, one seed); on LeNet-300-100 after units
# 1.25 where 0.1 has 1.53 (with 98 % zeros 1.05 and 1.20), and with 95 % zeros, no units, 0.87 where
# 0.1 has 0.97.
# Of runs with 12 epochs: shares layer by layer 1.07, layers competing by rms 1.19, by their largest
# 1.30.


def sparse(
    base: torch.optim.Optimizer,
    *,
    sparsity: float,
    steps: int,
    only: str = "*",
    scale: Literal["none", "rms", "max", "mean"] = "none",
    model: nn.Module | None = None,
    named_parameters: Iterable[tuple[str, Tensor]] | None = None,
) -> RVSM:
    """Return the optimizer that ends with a share of exact zeros, all else chosen by the recipe.

    l0 at an exact target shared by all weights, the gradient at u; the target rises along a cubic
    over the first half of the steps, and for the last quarter the survivors train alone.

    Parameters
    ----------
    base : torch.optim.Optimizer
        Built from ``model.named_parameters()``. Let its rate fall to zero over the steps.
    sparsity : float
        Share of the weights, in [0, 1), that is zero in the end.
    steps : int
        Of the whole training, at least 4.
    only : str
        Which weights, by a pattern of their names; of these the parameters of two and more axes
        that are trained: no biases, no batch norm, no frozen layers.
    scale : {"none", "rms", "max", "mean"}
        What weights are divided by before layers compete, as in `rvsm.optim.Budget`: after `units`
        the largest of the layer, "max", was better for fully connected layers and worse for
        convolutions; without them that was worse.
    model, named_parameters
        As for `rvsm.RVSM`.

    Raises
    ------
    RuleError
        If no weight is meant, or a number is out of range.

    See Also
    --------
    units : A stage before this one, where few weights are to be left.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    >>> base = torch.optim.SGD(model.named_parameters(), lr=0.05, momentum=0.9)
    >>> optimizer = sparse(base, sparsity=0.9, steps=1000)
    >>> optimizer.ruled_names()
    ['0.weight', '2.weight']
    """
    check_steps("steps", steps, 4)
    if named_parameters is not None:
        named_parameters = list(named_parameters)
    names = _matrices(base, only, model, named_parameters)
    schedule = Cubic(int(START * steps), int(END * steps))
    rules = [
        Rule(glob.escape(name), L0(), sparsity=sparsity, beta=BETA, schedule=schedule)
        for name in names
    ]
    return RVSM(
        base,
        rules,
        grad_at=GRAD_AT,
        budget=Budget("global", scale=scale),
        heal_from=int(HEAL * steps),
        model=model,
        named_parameters=named_parameters,
    )


def units(
    base: torch.optim.Optimizer,
    *,
    sparsity: float | Mapping[str, float],
    steps: int,
    only: str = "*",
    scale: Literal["none", "rms", "max", "mean"] = UNITS_SCALE,
    model: nn.Module | None = None,
    named_parameters: Iterable[tuple[str, Tensor]] | None = None,
) -> RVSM:
    """Return the optimizer of a first stage that makes whole filters and rows zero.

    What is pruned weight by weight from the start ends as a few weights in many units; few units
    with many weights learn more. After ``steps`` steps `rvsm.shrink` cuts them out, and `sparse`
    goes on with the small network, which trains faster. Transformed l1 on whole units: it lets them
    shrink before they go.

    Parameters
    ----------
    base : torch.optim.Optimizer
        Built from ``model.named_parameters()``.
    sparsity : float or mapping of str to float
        Share of the weights, in [0, 1), that goes with the units, layers competing by their norms;
        or for patterns of names the share of each such layer's units, which is better where you
        know the layers: half of the first, nine tenths of the largest. Layers that no pattern
        matches keep theirs.
    steps : int
        Of this stage, at least 4; a quarter of the whole training.
    only : str
        Which weights, as for `sparse`, all but the last of them: its rows are the answers.
    scale : {"none", "rms", "max", "mean"}
        What the norms of units are divided by before layers compete, as in `rvsm.optim.Budget`.
        Of no effect where shares are given layer by layer.
    model, named_parameters
        As for `rvsm.RVSM`.

    Raises
    ------
    RuleError
        If fewer than two weights are meant, or a number is out of range.

    Examples
    --------
    >>> import rvsm
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    >>> base = torch.optim.SGD(model.named_parameters(), lr=0.05, momentum=0.9)
    >>> optimizer = units(base, sparsity=0.75, steps=4)
    >>> for _ in range(4):
    ...     optimizer.zero_grad()
    ...     model(torch.ones(4, 8)).square().sum().backward()
    ...     optimizer.step()
    >>> optimizer.finalize()
    >>> small = rvsm.shrink(model, torch.ones(1, 8)).train()
    >>> [tuple(p.shape) for p in small.parameters() if p.dim() > 1]
    [(4, 8), (2, 4)]
    >>> base = torch.optim.SGD(small.named_parameters(), lr=0.05, momentum=0.9)
    >>> optimizer = sparse(base, sparsity=0.5, steps=12)
    """
    check_steps("steps", steps, 4)
    if named_parameters is not None:
        named_parameters = list(named_parameters)
    weights = list(_matrices(base, only, model, named_parameters).items())[:-1]
    if not weights:
        raise RuleError(
            f'only="{only}" means the last layer alone, whose rows are the answers; name more.'
        )
    if isinstance(sparsity, Mapping):
        shares, budget = sparsity, Budget("parameter")
    else:
        shares, budget = {"*": sparsity}, Budget("global", scale=scale)
    schedule = Cubic(0, int(UNITS_END * steps))
    rules = []
    for pattern, share in shares.items():
        meant = {name: p for name, p in weights if fnmatchcase(name, pattern)}
        if not meant:
            raise RuleError(
                f'sparsity: "{pattern}" means none of {", ".join(name for name, _ in weights)}, '
                "of which units can go; correct it."
            )
        rules += [
            Rule(
                glob.escape(name),
                TransformedL1(),
                groups=Filters() if p.dim() > 2 else Rows(),
                sparsity=share,
                beta=BETA,
                schedule=schedule,
            )
            for name, p in meant.items()
        ]
    return RVSM(
        base,
        rules,
        grad_at=GRAD_AT,
        budget=budget,
        model=model,
        named_parameters=named_parameters,
    )


def _matrices(
    base: torch.optim.Optimizer,
    only: str,
    model: nn.Module | None,
    named: list[tuple[str, Tensor]] | None,
) -> dict[str, Tensor]:
    """Return the weights of a base optimizer that a pattern means, by their names."""
    if named is None:
        groups = base.param_groups
        if all("param_names" in group for group in groups):
            named = [
                pair for g in groups for pair in zip(g["param_names"], g["params"], strict=True)
            ]
        else:
            named = [] if model is None else list(model.named_parameters())
    held = {id(p) for group in base.param_groups for p in group["params"]}
    weights = {
        clean_name(name): p
        for name, p in named
        if p.dim() > 1 and p.requires_grad and id(p) in held
    }
    found = {name: p for name, p in weights.items() if fnmatchcase(name, only)}
    if not found:
        raise RuleError(
            f'only="{only}" means none of the weights ({", ".join([*weights][:5])}); correct it.'
            if weights
            else "The base optimizer holds no named weights of two and more axes; build it from "
            "model.named_parameters(), or pass model=."
        )
    return found


def distilled(
    logits: Tensor,
    labels: Tensor,
    taught: Tensor,
    *,
    share: float = DISTILL,
    temperature: float = TEMPERATURE,
) -> Tensor:
    """Return cross entropy mixed with the distance to what a dense network answers.

    ``(1 - s) CE + s T^2 KL(softmax(taught / T) || softmax(logits / T))``.

    Parameters
    ----------
    logits : Tensor of shape (B, classes)
        Of the sparse network.
    labels : Tensor of shape (B,)
        Classes.
    taught : Tensor of shape (B, classes)
        Logits of the dense network about the same images.
    share : float
        s.
    temperature : float
        T.

    References
    ----------
    Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", arXiv 1503.02531.
    """
    student = F.log_softmax(logits / temperature, 1)
    teacher = F.log_softmax(taught / temperature, 1)
    distance = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    plain = F.cross_entropy(logits, labels)
    return (1 - share) * plain + share * temperature**2 * distance
