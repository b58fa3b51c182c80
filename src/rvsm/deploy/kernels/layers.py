"""The layers as a compiler asks for them."""

from __future__ import annotations

from rvsm.deploy.kernels.assemble import Variant, emit, make_layer
from rvsm.deploy.kernels.choose import choose
from rvsm.deploy.kernels.geometry import Emitted, Epilogue, Floats, Layer, Pair, Plane
from rvsm.errors import RvsmError


def conv(
    name: str,
    source: Plane,
    target: Plane,
    weight: Floats,
    stride: Pair = (1, 1),
    padding: Pair | tuple[int, int, int, int] = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
    epilogue: Epilogue | None = None,
    variant: Variant | None = None,
) -> Emitted:
    """Return C source of a convolution.

    Parameters
    ----------
    name : str
        Of the C function; its tables' names start with it.
    source, target : Plane
        Input and output; the source's border must be at least the padding.
    weight : ndarray of float32, shape (outputs, channels / groups, kernel rows, kernel columns)
    padding : tuple of int
        Rows and columns, or top, bottom, left and right.
    variant : Variant
        Default: `choose`.

    Raises
    ------
    RvsmError
        If the sizes do not fit each other, or the variant does not fit the layer.
    """
    layer = make_layer(
        source, target, weight, stride, padding, dilation, groups, epilogue or Epilogue()
    )
    return emit(name, layer, variant or choose(layer))


def linear_layer(weight: Floats, epilogue: Epilogue | None = None, lanes: int = 1) -> Layer:
    """Return the checked layer of the same arguments as `linear`."""
    if weight.ndim != 2 or lanes < 1:
        raise RvsmError("A linear layer needs a weight of two dimensions and at least one lane.")
    outputs, features = weight.shape
    source, target = Plane(features, 1, lanes), Plane(outputs, 1, lanes)
    return make_layer(source, target, weight[:, :, None, None], epilogue=epilogue)


def linear(
    name: str,
    weight: Floats,
    epilogue: Epilogue | None = None,
    lanes: int = 1,
    variant: Variant | None = None,
) -> Emitted:
    """Return C source of a linear layer on `lanes` images, y[o, l] = sum over i of w[o, i] x[i, l].

    Parameters
    ----------
    weight : ndarray of float32, shape (outputs, features)
    lanes : int
        Images; input and output are matrices [feature][lane].
    variant : Variant, optional
        Default: `choose`.
    """
    layer = linear_layer(weight, epilogue, lanes)
    return emit(name, layer, variant or choose(layer))
