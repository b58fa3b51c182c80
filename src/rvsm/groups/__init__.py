"""How a tensor is cut into groups: what a penalty keeps or kills as one."""

from rvsm.groups.base import Groups
from rvsm.groups.channels import InputChannels
from rvsm.groups.elements import Elements

__all__ = ["Elements", "Groups", "InputChannels"]
