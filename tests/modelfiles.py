"""What the tests of the model file share: sparse tensors, comparison by bits, forged files."""

import hashlib
import json
import struct
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Change = Callable[[dict[str, Any]], None]


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_same(a: Tensor, b: Tensor) -> None:
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert bits(a) == bits(b)


def sparse(*shape: int, zeros: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator)
    # Not a product: that would make half of the zeros negative.
    return values.where(torch.rand(shape, generator=generator) >= zeros, 0.0)


def every_coding() -> dict[str, Tensor]:
    """A small tensor for each way to write one, with `EVERY_FORM`."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(3, 2, generator=generator)
    return {
        "gaps": sparse(40, 40, zeros=0.98),
        "mask": sparse(18, 18, zeros=0.5),
        "dense": torch.randn(4, generator=generator),
        "half": sparse(40, 40, zeros=0.97, seed=1),
        "brain": torch.randn(5, 9, generator=generator, dtype=torch.float64),
        "book": sparse(30, 60, zeros=0.9, seed=2),
        "full book": torch.randn(10, 20, generator=generator).round(decimals=1),
        "flags": torch.arange(300) % 7 == 0,
        "long": torch.arange(100),
        "shared": shared,
        "tied": shared,
    }


EVERY_FORM = {
    "half": "float16",
    "brain": "bfloat16",
    "book": "codebook-16",
    "full book": "codebook-8",
}


def forge(content: bytes, change: Change) -> bytes:
    """Change a file's header and give it a checksum that holds: a lie, not an accident."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    header["__metadata__"]["sha256"] = "0" * 64
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    blank = struct.pack("<Q", len(text)) + text + content[8 + length :]
    digest = hashlib.sha256(blank).hexdigest().encode()
    return blank.replace(b"0" * 64, digest, 1)


def sign(content: bytes) -> bytes:
    """Put the checksum that holds in the place of the one that stands in a changed file."""
    place = content.find(b'"sha256":"') + len(b'"sha256":"')
    before, after = content[:place], content[place + 64 :]
    digest = hashlib.sha256(before + b"0" * 64 + after).hexdigest()
    return before + digest.encode() + after


def change_text(key: str, name: str, **news: object) -> Change:
    """Return a change of one entry in one of the header's JSON texts."""

    def change(header: dict[str, Any]) -> None:
        entries = json.loads(header["__metadata__"][key])
        entries[name] |= news
        header["__metadata__"][key] = json.dumps(entries)

    return change


def replace_header(**news: object) -> Change:
    return lambda header: header.update(news)


def replace_text(key: str, text: object) -> Change:
    return lambda header: header["__metadata__"].__setitem__(key, text)
