"""The splitting optimizer, its rules and its schedules."""

from rvsm.optim.rule import Rule
from rvsm.optim.schedules import Constant, Cubic, Linear, Schedule
from rvsm.optim.splitting import RVSM

__all__ = ["RVSM", "Constant", "Cubic", "Linear", "Rule", "Schedule"]
