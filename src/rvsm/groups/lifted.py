"""A scalar penalty on the norms of groups, as a penalty of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rvsm.errors import RuleError
from rvsm.groups.base import Groups
from rvsm.groups.tied import Tied
from rvsm.penalties.base import Penalty, Scalar


@dataclass(frozen=True)
class Grouped:
    r"""A penalty on the Euclidean norms of groups, ``P(x) = penalty(|x_g| for all groups g)``.

    ``Grouped(L1(), InputChannels())`` is the group lasso, ``Grouped(L0(), ...)`` counts groups.
    Under a rule's ``lam=`` it means what the penalty means under ``Rule(groups=...)``, which alone
    takes ``sparsity=``. It is needed where two groupings meet: ``Rule("conv.weight",
    TransformedL1(), lam=..., subgradient=(Grouped(L1(), InputChannels()), lam2))`` is the sparse
    group recipe.

    The proximal map scales each group: ``u_g = x_g prox(|x_g|, mu) / |x_g|``, 0 for a zero
    group. Threshold and inverse are the penalty's own and count in norms of groups.

    Parameters
    ----------
    penalty : Penalty
        Acts on the norms.
    groups : Groups
        How the tensor is cut.

    Raises
    ------
    RuleError
        If one of them is none, or the groups are tied across parameters.

    References
    ----------
    Yuan and Lin, "Model selection and estimation in regression with grouped variables", J. R.
    Stat. Soc. B 68 (2006); Bui et al., "Structured sparsity of convolutional neural networks via
    nonconvex sparse group regularization", Front. Appl. Math. Stat. 6:529564 (2021).
    """

    penalty: Penalty
    groups: Groups

    separable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_parts("Grouped", "penalty", self.penalty, self.groups)

    def value(self, x: Tensor) -> Tensor:
        """Return ``penalty(norms of the groups)``."""
        return self.groups.value(self.penalty, x)

    def prox(self, x: Tensor, mu: float | Tensor) -> Tensor:
        """Return every group scaled to the penalty's map of its norm."""
        return self.groups.prox(self.penalty, x, mu)

    def threshold(self, mu: Scalar) -> Scalar:
        """Return the norm up to which a group is zero."""
        return self.penalty.threshold(mu)

    def mu_for_threshold(self, t: Scalar) -> Scalar:
        """Return the `mu` at which groups of norm up to `t` are zero."""
        return self.penalty.mu_for_threshold(t)


def check_parts(owner: str, name: str, penalty: object, groups: object) -> None:
    """Raise RuleError unless `penalty` and `groups` are what their names say."""
    if isinstance(penalty, type) or not isinstance(penalty, Penalty):
        raise RuleError(f"{owner}: {name} must be a penalty such as L1(), not {penalty!r}.")
    if isinstance(groups, type) or not isinstance(groups, Groups):
        raise RuleError(
            f"{owner}: groups must be an object of rvsm.groups such as InputChannels(), "
            f"not {groups!r}."
        )
    if isinstance(groups, Tied):
        raise RuleError(
            f"{owner}: tied groups reach across parameters, a penalty sees one; give the rule a "
            "scalar penalty and groups=Tied(...)."
        )
