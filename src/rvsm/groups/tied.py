"""Groups that reach across parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from torch import Tensor

from rvsm.errors import RuleError
from rvsm.groups.base import Groups
from rvsm.groups.elements import Elements
from rvsm.groups.partition import Partition
from rvsm.penalties.base import Penalty


@dataclass(frozen=True)
class Tied:
    """Group i of every member together is one group: it lives or dies in all of them.

    Its norm is ``sqrt(sum over members of |x_g|^2)``, and the proximal map scales group i of
    every member by the same factor. For a convolution, its batch norm and the next layer::

        Tied({"conv1.weight": Filters(), "bn1.weight": Elements(), "conv2.weight": InputChannels()})

    A rule with such groups takes the members that its pattern matches and no other parameter. A
    ``*`` in the names stands for the same text in all of them, and ties one set for each text:
    ``{"*.q.weight": Heads(8), "*.out.weight": Heads(8, axis=1)}``.

    The norm belongs to several tensors: the methods of `Groups`, which are given one, raise.

    Parameters
    ----------
    members : mapping of str to Groups
        Two names or more, and how each parameter is cut; every one into as many groups.

    Raises
    ------
    RuleError
        If there are fewer than two members, a cut is no partition, or only some names hold a
        ``*``.
    """

    members: Mapping[str, Groups] = field(hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.members, Mapping) or len(self.members) < 2:
            raise RuleError("Tied needs a dict of at least two parameter names and their groups.")
        for name, groups in self.members.items():
            if not isinstance(groups, Partition | Elements):
                raise RuleError(
                    f"Tied: {groups!r} of {name} cannot be tied; use groups that divide the "
                    "tensor, such as Elements() or Filters()."
                )
        if {name.count("*") for name in self.members} not in ({0}, {1}):
            raise RuleError("Tied: give either every name one * or none of them.")

    def place(self, name: str) -> tuple[str, str] | None:
        """Return the text for ``*`` in `name` and the member it is, or None for a stranger."""
        for member in self.members:
            found = re.fullmatch("(.*)".join(map(re.escape, member.split("*"))), name)
            if found:
                return (found[1] if found.groups() else "", member)
        return None

    def norms(self, x: Tensor) -> Tensor:
        """Raise RuleError: one tensor alone has no norms of tied groups."""
        self._refuse()

    def spread(self, per_group: Tensor, x: Tensor) -> Tensor:
        """Raise RuleError, as `norms`."""
        self._refuse()

    def value(self, penalty: Penalty, x: Tensor) -> Tensor:
        """Raise RuleError, as `norms`."""
        self._refuse()

    def prox(self, penalty: Penalty, x: Tensor, mu: float | Tensor) -> Tensor:
        """Raise RuleError, as `norms`."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise RuleError(
            "Tied groups reach across parameters and cannot cut one tensor alone; use them in a "
            "Rule of rvsm.RVSM."
        )
