"""Strength and threshold: what a target, a subgradient or the zero network asks of a penalty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from rvsm.errors import RuleError
from rvsm.groups import critical_mu
from rvsm.optim import distributed
from rvsm.optim.rule import Rule
from rvsm.optim.targets import rounding
from rvsm.optim.units import Unit
from rvsm.penalties.base import Penalty


def mu_beside(
    penalty: Penalty, t: float | Tensor, roundings: int, dtype: torch.dtype
) -> float | Tensor:
    """Return the mu whose threshold lies some roundings of a type above `t`, or below.

    Above, it zeroes what an exact target asks for, where nothing else lies near t. Below, a mask
    decides, and the map's own threshold must not zero what ties with t and survives.
    """
    factor = 1 + roundings * rounding(dtype)
    if isinstance(t, Tensor) and t.device.type != "cpu":
        return penalty.mu_for_threshold(t.double() * factor)  # without waiting for the device
    return penalty.mu_for_threshold(float(t) * factor)


def check_target(rule: Rule) -> None:
    """Raise RuleError unless the rule's penalty can reach a target.

    Any target: the threshold 1.0 is tried, which its mu must meet.
    """
    where = f"Rule({rule.pattern!r})"
    penalty = cast(Penalty, rule.penalty)
    try:
        mu = penalty.mu_for_threshold(1.0)
    except RuleError as error:
        raise RuleError(f"{where}: sparsity= cannot be reached: {error}") from None
    if not (math.isfinite(mu) and math.isclose(penalty.threshold(mu), 1.0, rel_tol=1e-3)):
        raise RuleError(
            f"{where}: no strength of {penalty} makes its threshold 1, so that no sparsity can be "
            "reached; give lam= or another penalty."
        )


def check_subgradient(rule: Rule, unit: Unit) -> None:
    """Raise RuleError unless the rule's second penalty has a derivative on a unit."""
    penalty, _ = cast("tuple[Penalty, float]", rule.subgradient)
    with torch.inference_mode(False), torch.enable_grad():
        ones = [torch.ones(shape, requires_grad=True) for shape in unit.shapes]
        try:
            smooth = unit.value(penalty, ones).requires_grad
        except RuleError as error:
            raise RuleError(f"{unit}: {error}") from None
    if not smooth:
        raise RuleError(
            f"Rule({rule.pattern!r}): the value of {penalty} has no derivative to serve as "
            "subgradient; use a penalty that has one, such as L1()."
        )


def critical(unit: Unit, penalty: Penalty, ws: Sequence[Tensor], beta: float) -> float:
    """Return the least lam, but for rounding, at which u is zero in a whole unit; inf for none.

    Parameters
    ----------
    unit : Unit
        What the penalty acts on.
    penalty : Penalty
        Its split penalty.
    ws : sequence of Tensor
        The w of its members.
    beta : float
        Coupling strength.
    """
    if unit.reachable < unit.count:
        return math.inf
    whole = [distributed.whole(w) for w in ws]
    if len(whole) == 1:
        mu = critical_mu(penalty, whole[0], unit.groups[0])
    else:
        mu = critical_mu(penalty, unit.norms(penalty, whole))
    lam, step = mu * beta, torch.finfo(torch.float64).eps
    while lam / beta < mu and lam < math.inf:  # the product was rounded down
        lam, step = lam * (1 + step), 2 * step
    return lam
