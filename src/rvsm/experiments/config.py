"""What a training run is told: a small TOML file with a schema that knows every key."""

from __future__ import annotations

import difflib
import math
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rvsm.atomic import explain
from rvsm.errors import ConfigError

CONFIG_FILE = "config.toml"
"""What a run did, in its folder."""

Accelerator = Literal["cpu", "gpu"]
Method = Literal["dense", "l1", "l0", "transformed-l1"]
METHODS: tuple[Method, ...] = get_args(Method)
_Positive = Annotated[int, Field(ge=1, le=65_536)]
_Size = Annotated[float, Field(allow_inf_nan=False)]
_Pool = tuple[_Positive, _Positive]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NetworkConfig(_Strict):
    """Shape of :class:`rvsm.handwriting.network.TremorNet`."""

    channels: tuple[_Positive, _Positive, _Positive] = (12, 24, 24)
    kernel: int = Field(default=3, ge=1, le=63)
    pools: tuple[_Pool, _Pool, _Pool] = ((2, 2), (2, 2), (1, 2))
    size: tuple[_Positive, _Positive] = (32, 128)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    norm: bool = True


class AugmentationConfig(_Strict):
    """What is done to each training image, anew every time it is seen.

    Shifts are in pixels of the size the network reads; contrast 0.2 multiplies the ink by a
    factor between 0.8 and 1.2. `elastic` bends the page smoothly, with knots `elastic_knot`
    pixels apart and shifts of up to `elastic` pixels RMS an axis: letters of another font, but
    no tremor.
    """

    flip_horizontal: bool = True
    flip_vertical: bool = True
    shift_rows: int = Field(default=3, ge=0, le=4096)
    shift_columns: int = Field(default=6, ge=0, le=4096)
    contrast: float = Field(default=0.0, ge=0.0, lt=1.0)
    elastic: _Size = Field(default=0.0, ge=0.0)
    elastic_knot: int = Field(default=12, ge=2, le=65_536)


class RuleConfig(_Strict):
    """Which weights are made sparse, and how strongly: a target share of zeros, or ``lam``.

    ``groups = "maps"`` makes zero, or keeps, all weights that read a map of the layer before.
    """

    pattern: str
    groups: Literal["elements", "maps"] = "elements"
    sparsity: float | None = Field(default=None, ge=0.0, lt=1.0)
    lam: float | None = None


class SplittingConfig(_Strict):
    """The options of the splitting optimizer; dense runs do not use them.

    ``start`` and ``end`` say between which fractions of the training the strength grows from
    zero to its full value (cubic); from the fraction ``heal`` on the zeros are fixed and the
    rest trains freely (1 = never).
    """

    beta: float = 0.1
    a: float = 1.0
    grad_at: Literal["w", "u"] = "w"
    coupling: Literal["gradient", "decoupled"] = "gradient"
    budget: Literal["rule", "global"] = "rule"
    start: float = Field(default=0.0, ge=0.0, le=1.0)
    end: float = Field(default=0.6, ge=0.0, le=1.0)
    heal: float = Field(default=0.8, ge=0.0, le=1.0)


DEFAULT_RULES = (
    RuleConfig(pattern="fc.weight", sparsity=0.9),
    RuleConfig(pattern="conv[23].weight", sparsity=0.6),
)


class TrainConfig(_Strict):
    """Everything a training run depends on; ``config.toml`` in the run folder holds it resolved.

    Parameters
    ----------
    data
        Folder of images as made by ``rvsm data make``.
    more
        Further such folders, whose training images are learned from too; what is validated and
        tested on is that of `data` alone.
    method
        ``dense`` trains without a penalty; the others name the penalty.
    start
        Folder of a finished run whose weights to start from, written with the zeros they have
        for nothing (:meth:`rvsm.handwriting.network.TremorNet.simplify`); empty starts from
        scratch.
    images
        How many of the training images to learn from at most, the first of each class, half of
        them each; 0 for all.
    teacher, distill
        Folder of a finished run, and the share, in [0, 1], of the loss that is the distance to
        its answers about the same images (:func:`rvsm.recipes.distilled`).
    select
        ``val-accuracy`` or ``val-loss``: what chooses the epoch; always on the validation split,
        and only among the epochs that reached the asked sparsity. ``last``: the last one.
    final_lr
        The rate at the end as a share of its peak, lr; with an average it need not be small.
    average
        What a step keeps of the running average of the weights, such as 0.999; the average is
        what is validated and saved. 0: the weights themselves. A sparse run averages from when
        its zeros are fixed.
    optimizer
        ``adamw``, or ``muon``: momentum steps of the convolutions made orthogonal
        (Newton-Schulz), with the rate `muon_lr`, and AdamW with the rate `lr` for the rest.
    precision
        ``auto`` becomes, when the run starts, ``bf16-mixed`` on a CPU that computes with
        bfloat16 in hardware, otherwise ``32``.
    accelerator
        ``cpu``, or ``gpu``: the first CUDA device.
    """

    data: str
    more: tuple[str, ...] = ()
    method: Method = "l0"
    start: str = ""
    seed: int = Field(default=0, ge=0)
    images: int = Field(default=0, ge=0)
    epochs: int = Field(default=12, ge=1)
    batch_size: int = Field(default=100, ge=1)
    average: float = Field(default=0.0, ge=0, lt=1)
    optimizer: Literal["adamw", "muon"] = "adamw"
    lr: _Size = Field(default=3e-3, gt=0)
    muon_lr: _Size = Field(default=0.02, gt=0)
    weight_decay: _Size = Field(default=0.0, ge=0)
    warmup_fraction: float = Field(default=0.3, gt=0, lt=1)
    final_lr: float = Field(default=0.0, ge=0, le=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    teacher: str = ""
    distill: float = Field(default=0.0, ge=0, le=1)
    select: Literal["val-accuracy", "val-loss", "last"] = "val-accuracy"
    precision: Literal["32", "bf16-mixed", "auto"] = "32"
    accelerator: Accelerator = "cpu"
    threads: int = Field(default=1, ge=1)
    network: NetworkConfig = NetworkConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    splitting: SplittingConfig = SplittingConfig()
    rules: tuple[RuleConfig, ...] = DEFAULT_RULES

    def model_post_init(self, _context: Any) -> None:
        """Check what fields alone cannot, whatever the method: numbers first, then what is used."""
        if self.splitting.beta <= 0 or not math.isfinite(self.splitting.beta):
            raise ConfigError(
                f"splitting.beta is {self.splitting.beta}; give a number above 0, such as 0.1."
            )
        if self.splitting.end <= self.splitting.start:
            raise ConfigError(
                f"splitting.end ({self.splitting.end}) must be larger than splitting.start "
                f"({self.splitting.start})."
            )
        if not self.rules and self.method != "dense":
            raise ConfigError(
                f'method "{self.method}" has no [[rules]]; give at least one, or set method to '
                '"dense".'
            )
        if bool(self.distill) != bool(self.teacher):
            raise ConfigError(
                f'distill is {self.distill} and teacher is "{self.teacher}"; give a share above 0 '
                "and the folder of a finished run, or neither."
            )
        if self.distill and self.label_smoothing:
            raise ConfigError(
                "distill and label_smoothing both soften the labels; set one of them to 0."
            )
        for rule in self.rules:
            if (rule.lam is None) == (rule.sparsity is None):
                raise ConfigError(
                    f'The rule for "{rule.pattern}" needs exactly one of lam and sparsity.'
                )
            if rule.lam is not None and not (rule.lam >= 0 and math.isfinite(rule.lam)):
                raise ConfigError(
                    f'The rule for "{rule.pattern}" has lam = {rule.lam}; give 0 or more.'
                )


def load_config(path: Path, **changes: Any) -> TrainConfig:
    """Read a TOML file and check every key.

    Parameters
    ----------
    path
        The file.
    changes
        Fields that replace those of the file, such as ``seed=3``.

    Raises
    ------
    ConfigError
        If the file cannot be read or a key or value does not fit: the sentence names it.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(explain(error, path, "read the configuration")) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}; correct that line.") from error
    return make_config({**values, **changes}, source=str(path))


def make_config(values: dict[str, Any], source: str = "the given options") -> TrainConfig:
    """Check a dictionary of options against the schema.

    Raises
    ------
    ConfigError
        One sentence about the first key or value that does not fit, naming ``source``.
    """
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, source)) from None


def dump_config(config: TrainConfig) -> str:
    """Return the whole configuration as TOML, defaults included."""
    import tomli_w

    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def _explain(error: ValidationError, source: str) -> str:
    """Turn pydantic's list into one sentence: on an unknown key, or else on its first entry."""
    found = error.errors(include_url=False)
    first = min(found, key=lambda entry: entry["type"] != "extra_forbidden")
    if isinstance(cause := first.get("ctx", {}).get("error"), ConfigError):
        return f"{str(cause).rstrip('.')} (in {source})."
    place = [part for part in first["loc"] if isinstance(part, str)]
    name = ".".join(place)
    if first["type"] == "extra_forbidden":
        valid = list(_model_at(place[:-1]).model_fields)
        close = difflib.get_close_matches(place[-1], valid, n=1, cutoff=0.5)
        remedy = f'did you mean "{close[0]}"?' if close else f"valid keys: {', '.join(valid)}."
        return f'Unknown key "{name}" in {source}; {remedy}'
    if first["type"] == "missing" and isinstance(first["loc"][-1], int):
        return f'The key "{name}" in {source} has {first["loc"][-1]} entries; give all of them.'
    if first["type"] == "missing":
        return f'The key "{name}" is missing in {source}; add it.'
    given = first.get("input")
    return f'The key "{name}" in {source} cannot be {given!r}: {_lower(first["msg"])}.'


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


_SECTIONS: dict[str, type[BaseModel]] = {
    "network": NetworkConfig,
    "augmentation": AugmentationConfig,
    "splitting": SplittingConfig,
    "rules": RuleConfig,
}


def _model_at(place: list[str]) -> type[BaseModel]:
    return _SECTIONS[place[0]] if place else TrainConfig
