"""The splitting optimizer, its rules, budgets and schedules, and its relatives."""

from rvsm.optim.admm import ADMM
from rvsm.optim.bregman import LinearizedBregman, sparse_start
from rvsm.optim.budget import Budget
from rvsm.optim.hard_concrete import HardConcrete
from rvsm.optim.magnitude import MagnitudePruning
from rvsm.optim.proximal import ProximalGradient
from rvsm.optim.recalibration import recalibrate
from rvsm.optim.rule import Rule
from rvsm.optim.schedules import (
    Constant,
    Continuation,
    Cosine,
    Cubic,
    Linear,
    Schedule,
    Steps,
)
from rvsm.optim.splitting import RVSM

__all__ = [
    "ADMM",
    "RVSM",
    "Budget",
    "Constant",
    "Continuation",
    "Cosine",
    "Cubic",
    "HardConcrete",
    "Linear",
    "LinearizedBregman",
    "MagnitudePruning",
    "ProximalGradient",
    "Rule",
    "Schedule",
    "Steps",
    "recalibrate",
    "sparse_start",
]
