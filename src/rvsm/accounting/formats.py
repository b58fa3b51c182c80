"""What a sparse tensor weighs in each format, computed and not written."""

import math

import numpy as np
import torch
from torch import Tensor

from rvsm.deploy import coding

FORMATS = ("dense", "bitmask", "gaps", "csr", "coo", "bound")
"""The keys of `bytes_by_format`, in the order they are shown."""

_INDEX_BYTES = 8  # torch keeps the indices of sparse tensors as int64


def bytes_by_format(weight: Tensor) -> dict[str, int]:
    r"""Return the bytes of a tensor's values and places in each format, headers apart.

    With n elements of b bytes, k of them kept, in a matrix of r rows (``weight.flatten(1)``; a
    vector is one row):

    - ``dense``: :math:`n b`
    - ``bitmask``: :math:`k b + \lceil n / 8 \rceil`
    - ``gaps``: :math:`k b` and the gap codes of `rvsm.deploy.coding`, at their best width
    - ``csr``: :math:`k b + 8 k + 8 (r + 1)`, torch's compressed rows with int64 indices
    - ``coo``: :math:`k b + 16 k`, torch's pairs of int64 coordinates
    - ``bound``: :math:`k b + \lceil \log_2 \binom{n}{k} / 8 \rceil`, what no coding that must
      tell any k places of n can be below, on average

    A value is kept where it is not zero; in the two formats of `rvsm.save`, which gives back the
    same bits, -0.0 is kept too.

    Parameters
    ----------
    weight
        An ordinary tensor of any shape and dtype.

    Returns
    -------
    dict
        Bytes under each of `FORMATS`.
    """
    elements, width = weight.numel(), weight.element_size()
    nonzeros = int((weight != 0).sum())
    rows = math.prod(weight.shape[:1]) if weight.dim() > 1 else 1
    places = places_by_bits(weight)
    gaps = coding.gap_codes(places, elements, bits := coding.best_bits(places, elements)) * bits
    values = nonzeros * width
    return {
        "dense": elements * width,
        "bitmask": places.size * width + (elements + 7) // 8,
        "gaps": places.size * width + (gaps + 7) // 8,
        "csr": values + _INDEX_BYTES * (nonzeros + rows + 1),
        "coo": values + _INDEX_BYTES * 2 * nonzeros,
        "bound": values + math.ceil(choice_bits(elements, nonzeros) / 8),
    }


def places_by_bits(weight: Tensor) -> coding.Places:
    """Return the places, in row-major order, of elements with any bit set: -0.0 is one."""
    flat = weight.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    if flat.numel() == 0:
        return np.empty(0, dtype=np.int64)
    words = flat.view(torch.uint8).view(-1, flat.element_size())
    places: coding.Places = words.any(1).nonzero().flatten().numpy()
    return places


def choice_bits(elements: int, kept: int) -> float:
    r"""Return :math:`\log_2 \binom{n}{k}`, the bits that tell k places among n."""
    logs = math.lgamma(elements + 1) - math.lgamma(kept + 1) - math.lgamma(elements - kept + 1)
    return max(0.0, logs / math.log(2))
