"""How a tensor is cut into groups: what a penalty keeps or kills as one."""

from rvsm.groups.base import Groups
from rvsm.groups.channels import InputChannels
from rvsm.groups.critical import critical_mu
from rvsm.groups.elements import Elements
from rvsm.groups.lifted import Grouped
from rvsm.groups.sparse_group import SparseGroup

__all__ = ["Elements", "Grouped", "Groups", "InputChannels", "SparseGroup", "critical_mu"]
