"""C source of sparse layers: constant tables and one function a layer.

`make_layer` and `linear_layer` check a layer and `emit` writes it; put `prelude()` before its code.
`variants` lists the ways to compute it that are worth timing, `choose` takes one without timing.
"""

from rvsm.deploy.kernels.assemble import Variant, emit, linear_layer, make_layer
from rvsm.deploy.kernels.choose import choose, variants
from rvsm.deploy.kernels.geometry import Emitted, Epilogue, Layer, Plane
from rvsm.deploy.kernels.prelude import prelude

__all__ = [
    "Emitted",
    "Epilogue",
    "Layer",
    "Plane",
    "Variant",
    "choose",
    "emit",
    "linear_layer",
    "make_layer",
    "prelude",
    "variants",
]
