"""Memory that a training process asks for again and again."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of malloc.h."""


def keep_pages() -> None:
    """Let this process keep the pages of tensors that it frees; nothing where malloc is no glibc's.

    glibc gives the pages of every large tensor back and asks for them again, each page with a
    fault: a tenth of a step of the paper's network, a fifth of one of LeNet-5. For processes that
    train and end, since what they keep is lost to others.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # TypeError: there is no such handle on Windows
        return
    mallopt(_M_MMAP_THRESHOLD, 2**25)  # the most it takes
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
