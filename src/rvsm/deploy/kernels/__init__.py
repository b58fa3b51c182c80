"""C source of sparse layers."""

from rvsm.deploy.kernels.conv import Variant, conv
from rvsm.deploy.kernels.geometry import Emitted, Epilogue, Plane
from rvsm.deploy.kernels.prelude import prelude

__all__ = ["Emitted", "Epilogue", "Plane", "Variant", "conv", "prelude"]
