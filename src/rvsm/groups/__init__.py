"""How a tensor is cut into groups: what a penalty keeps or kills as one."""

from rvsm.groups.base import Groups
from rvsm.groups.blocks import Blocks
from rvsm.groups.channels import Columns, Filters, InputChannels, Rows
from rvsm.groups.critical import critical_mu
from rvsm.groups.elements import Elements
from rvsm.groups.heads import Heads
from rvsm.groups.lifted import Grouped
from rvsm.groups.nm import NM
from rvsm.groups.partition import Partition
from rvsm.groups.sparse_group import SparseGroup
from rvsm.groups.tied import Tied

__all__ = [
    "NM",
    "Blocks",
    "Columns",
    "Elements",
    "Filters",
    "Grouped",
    "Groups",
    "Heads",
    "InputChannels",
    "Partition",
    "Rows",
    "SparseGroup",
    "Tied",
    "critical_mu",
]
