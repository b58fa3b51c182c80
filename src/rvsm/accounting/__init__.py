"""How sparse is a model, and what are the zeros worth: `report` and `sensitivity`."""

from rvsm.accounting.layer import Layer
from rvsm.accounting.summary import Report, report
from rvsm.accounting.tolerance import LayerCurve, Sensitivity, sensitivity

__all__ = ["Layer", "LayerCurve", "Report", "Sensitivity", "report", "sensitivity"]
