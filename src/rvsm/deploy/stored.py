"""A model file that has been read and found whole, and what it holds."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from rvsm.deploy.container import NAMES, Part, damaged, json_object, read_container
from rvsm.deploy.entries import CODINGS, decode, describe, part_names
from rvsm.errors import FileFormatError
from rvsm.text import some

VERSION = 2
MAX_ARCHITECTURE = 2**20
"""Characters that the description of a network may have."""


@dataclass(frozen=True)
class Stored:
    """A file that has been read and whose checksum holds, not yet decoded.

    Attributes
    ----------
    path
        Where it is.
    entries, parts
        How each tensor is written, and the arrays, by name.
    metadata
        The user's texts.
    architecture
        The description of the network, if there is one.
    """

    path: Path
    entries: dict[str, dict[str, Any]]
    parts: dict[str, Part]
    metadata: dict[str, str] = field(default_factory=dict)
    architecture: dict[str, Any] | None = None

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Read and check a file, its arrays not yet decoded.

        Raises
        ------
        FileFormatError
            If the file is damaged, newer than `VERSION`, or not ours.
        RvsmError
            If the system cannot read it.
        """
        path = Path(path)
        container = read_container(path, VERSION)
        texts = container.texts
        entries = json_object(path, texts.get("tensors"), "list of tensors")
        metadata = json_object(path, texts.get("metadata"), "metadata")
        if not all(isinstance(entry, dict) for entry in entries.values()):
            raise damaged(path, "the list of tensors is not as it must be")
        if not all(isinstance(text, str) for text in metadata.values()):
            raise damaged(path, "its metadata are not texts")
        architecture = None
        if (text := texts.get("architecture")) is not None:
            if isinstance(text, str) and len(text) > MAX_ARCHITECTURE:
                raise damaged(path, "the description of its network is too long")
            architecture = json_object(path, text, "description of a network")
        stored = cls(path, entries, container.parts, metadata, architecture)
        stored._check_names()
        return stored

    def _check_names(self) -> None:
        """Every part belongs to one tensor, and every tensor has its parts."""
        used: list[str] = []
        for name, entry in self.entries.items():
            kind, of = entry.get("coding"), entry.get("of")
            if kind not in CODINGS:
                raise damaged(self.path, f"{name!r} is written in an unknown way")
            original = self.entries.get(of) if isinstance(of, str) else None
            if kind == "alias" and (original is None or original.get("coding") == "alias"):
                raise damaged(self.path, f"{name!r} is tied to a tensor that is not there")
            used += part_names(name, entry).values()
        if sorted(used) != sorted(self.parts):
            raise damaged(self.path, "its parts are not those of its tensors")

    def described(self, name: str) -> tuple[list[int], str]:
        """Return the shape and safetensors dtype of a tensor, from the header alone."""
        entry = self.entries[name]
        if entry["coding"] == "alias":
            return self.described(entry["of"])
        with self._blaming(name):
            return describe(name, entry, self.parts)

    def check_fits(self, target: Mapping[str, object]) -> None:
        """Raise unless names, shapes and dtypes are those of the model."""
        problems = []
        for label, odd in (
            ("the file lacks", [name for name in target if name not in self.entries]),
            ("the model lacks", [name for name in self.entries if name not in target]),
        ):
            if odd:
                problems.append(f"{label} {some(odd)}")
        for name, value in target.items():
            if name not in self.entries or problems:
                continue
            if not isinstance(value, Tensor):
                problems.append(f"{name} is no tensor in the model")
                continue
            shape, dtype = self.described(name)
            if shape != list(value.shape) or dtype != NAMES.get(value.dtype):
                problems.append(
                    f"{name} is {dtype} {shape} in the file and "
                    f"{NAMES.get(value.dtype, value.dtype)} {list(value.shape)} in the model"
                )
        if problems:
            raise FileFormatError(
                f"{self.path} does not fit this model: {'; '.join(problems)}; build the model "
                "as it was when saved, or use rvsm.load(path) to get the tensors alone."
            )

    def tensors(self) -> dict[str, Tensor]:
        """Decode everything, in the order of the file's list."""
        decoded = {
            name: self.tensor(name)
            for name, entry in self.entries.items()
            if entry["coding"] != "alias"
        }
        return {name: decoded[self.original(name)] for name in self.entries}

    def original(self, name: str) -> str:
        """Return the name of the tensor that `name` is tied to, or its own."""
        entry = self.entries[name]
        return str(entry["of"]) if entry["coding"] == "alias" else name

    def tensor(self, name: str) -> Tensor:
        """Decode one tensor that is no alias."""
        with self._blaming(name):
            return decode(name, self.entries[name], self.parts)

    @contextmanager
    def _blaming(self, name: str) -> Iterator[None]:
        """Turn what is wrong with a tensor into an error about the file."""
        try:
            yield
        except ValueError as error:
            raise damaged(self.path, f"in {name!r} {error}") from error
