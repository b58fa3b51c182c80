"""The splitting optimizer, its rules, budgets and schedules."""

from rvsm.optim.budget import Budget
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
    "RVSM",
    "Budget",
    "Constant",
    "Continuation",
    "Cosine",
    "Cubic",
    "Linear",
    "Rule",
    "Schedule",
    "Steps",
    "recalibrate",
]
