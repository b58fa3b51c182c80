"""C source of sparse layers: constant tables and one function a layer.

`conv` and `linear` return an `Emitted`; put `prelude()` before its code. `variants` lists the ways
to compute a layer that are worth timing, and `choose` takes one without timing.
"""

from rvsm.deploy.kernels.assemble import Variant, emit, make_layer
from rvsm.deploy.kernels.choose import choose, variants
from rvsm.deploy.kernels.geometry import Emitted, Epilogue, Layer, Plane
from rvsm.deploy.kernels.layers import conv, linear, linear_layer
from rvsm.deploy.kernels.prelude import prelude

__all__ = [
    "Emitted",
    "Epilogue",
    "Layer",
    "Plane",
    "Variant",
    "choose",
    "conv",
    "emit",
    "linear",
    "linear_layer",
    "make_layer",
    "prelude",
    "variants",
]
