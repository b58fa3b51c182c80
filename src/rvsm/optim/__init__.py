"""The splitting optimizer, its rules and its schedules, and its relatives."""

from rvsm.optim.admm import ADMM
from rvsm.optim.bregman import LinearizedBregman, sparse_start
from rvsm.optim.hard_concrete import HardConcrete
from rvsm.optim.magnitude import MagnitudePruning
from rvsm.optim.proximal import ProximalGradient
from rvsm.optim.rule import Rule
from rvsm.optim.schedules import Constant, Cubic, Linear, Schedule
from rvsm.optim.splitting import RVSM

__all__ = [
    "ADMM",
    "RVSM",
    "Constant",
    "Cubic",
    "HardConcrete",
    "Linear",
    "LinearizedBregman",
    "MagnitudePruning",
    "ProximalGradient",
    "Rule",
    "Schedule",
    "sparse_start",
]
