"""What a training run is told: a small TOML file with a schema that knows every key."""

from __future__ import annotations

import difflib
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
    # The docstring below a key is what docs/config.md and `rvsm train --keys` say of it.
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class NetworkConfig(_Strict):
    """The shape of the network."""

    channels: tuple[_Positive, _Positive, _Positive] = (12, 24, 24)
    """Maps of the three convolutions."""
    kernel: int = Field(default=3, ge=1, le=63)
    """Rows and columns of their kernels; an odd number."""
    pools: tuple[_Pool, _Pool, _Pool] = ((2, 2), (2, 2), (1, 2))
    """Rows and columns of which the largest value is taken, after each convolution."""
    size: tuple[_Positive, _Positive] | None = None
    """Rows and columns of the images it reads, a whole fraction of those of the data folder. Not
    given, it is half of each, such as 32 and 128, or what the run of ``start`` reads."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of what the last layer reads that is left out at random in each step."""
    norm: bool = True
    """Whether maps are normalised over the batch, which learns far faster; the model that is saved
    has none of it."""


class AugmentationConfig(_Strict):
    """What is done to each training image, anew every time it is seen."""

    flip_horizontal: bool = True
    """Mirror half of the images, drawn at random, left to right."""
    flip_vertical: bool = True
    """The same, top to bottom."""
    shift_rows: int = Field(default=3, ge=0, le=4096)
    """Shift up or down by up to so many pixels of the size the network reads."""
    shift_columns: int = Field(default=6, ge=0, le=4096)
    """The same to the left or right."""
    contrast: float = Field(default=0.0, ge=0.0, lt=1.0)
    """0.2 multiplies the ink by a factor between 0.8 and 1.2."""
    elastic: _Size = Field(default=0.0, ge=0.0)
    """Bend the page smoothly, by shifts of up to so many pixels RMS an axis: letters of another
    font, but no tremor."""
    elastic_knot: int = Field(default=12, ge=2, le=65_536)
    """Distance of the knots of the bending, in pixels: what is shorter stays straight."""


class RuleConfig(_Strict):
    """Which weights are made sparse, and how strongly: each rule has ``sparsity`` or ``lam``."""

    pattern: str
    """Names of weights, such as ``fc.weight``; ``*`` stands for anything, ``[23]`` for 2 or 3."""
    groups: Literal["elements", "maps"] = "elements"
    """``maps`` makes zero, or keeps, all weights that read a map of the layer before."""
    sparsity: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Share of zeros to reach."""
    lam: Annotated[float | None, Field(ge=0.0, allow_inf_nan=False)] = None
    """Strength of the penalty; the share of zeros follows from it."""


class SplittingConfig(_Strict):
    """The options of the splitting optimizer; dense runs do not use them."""

    beta: _Size = Field(default=0.1, gt=0)
    """Strength of the coupling of w, the trained weights, to u, the sparse ones."""
    a: _Size = Field(default=1.0, gt=0)
    """Shape of the transformed l1 penalty: towards l0 the smaller it is, towards l1 the larger."""
    grad_at: Literal["w", "u"] = "w"
    """Where the gradient is taken: at w, as in the paper, or at u."""
    coupling: Literal["gradient", "decoupled"] = "gradient"
    """Whether the coupling is added to the gradient, or applied beside the step as AdamW does with
    weight decay."""
    budget: Literal["rule", "global"] = "rule"
    """Whether each rule keeps its share of zeros or all of them compete for one."""
    start: float = Field(default=0.0, ge=0.0, le=1.0)
    """From which fraction of the training on the strength grows from zero (cubic)."""
    end: float = Field(default=0.6, ge=0.0, le=1.0)
    """At which fraction it has its full value; above ``start``. Only epochs after it are chosen."""
    heal: float = Field(default=0.8, ge=0.0, le=1.0)
    """From which fraction on the zeros are fixed and the rest trains freely; 1 is never."""


DEFAULT_RULES = (
    RuleConfig(pattern="fc.weight", sparsity=0.9),
    RuleConfig(pattern="conv[23].weight", sparsity=0.6),
)


class TrainConfig(_Strict):
    """Everything a training run depends on; ``config.toml`` in the run folder holds it resolved."""

    data: str
    """Folder of images as made by ``rvsm data make``, or of your own."""
    more: tuple[str, ...] = ()
    """Further such folders, whose training images are learned from too; what is validated and
    tested on is that of ``data`` alone."""
    method: Method = "l0"
    """``dense`` trains without a penalty; the others name the penalty."""
    start: str = ""
    """Folder of a finished run whose weights to start from; empty starts from scratch."""
    seed: int = Field(default=0, ge=0)
    """Of the first weights, the order of the images and what is done to them."""
    images: int = Field(default=0, ge=0)
    """How many of the training images to learn from at most, the first of each class, half of
    them each; 0 for all."""
    epochs: int = Field(default=12, ge=1)
    """Passes over the training images."""
    batch_size: int = Field(default=100, ge=1)
    """Images per step."""
    average: float = Field(default=0.0, ge=0, lt=1)
    """What a step keeps of the running average of the weights, such as 0.999; the average is what
    is validated and saved. 0: the weights themselves. A sparse run averages from when its zeros
    are fixed."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """``muon``: momentum steps of the convolutions made orthogonal (Newton-Schulz), with the rate
    ``muon_lr``, and AdamW with the rate ``lr`` for the rest."""
    lr: _Size = Field(default=3e-3, gt=0)
    """Peak of the learning rate, which rises and falls once (one-cycle)."""
    muon_lr: _Size = Field(default=0.02, gt=0)
    """The same of the convolutions under ``muon``."""
    weight_decay: _Size = Field(default=0.0, ge=0)
    """Decoupled weight decay."""
    warmup_fraction: float = Field(default=0.3, gt=0, lt=1)
    """Fraction of the training in which the rate rises."""
    final_lr: float = Field(default=0.0, ge=0, le=1)
    """The rate at the end as a share of its peak; with an average it need not be small."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each label that is spread over both classes."""
    teacher: str = ""
    """Folder of a finished run whose answers are learned from; goes with ``distill``."""
    distill: float = Field(default=0.0, ge=0, le=1)
    """Share of the loss that is the distance to the teacher's answers about the same images."""
    select: Literal["val-accuracy", "val-loss", "last"] = "val-accuracy"
    """What chooses the epoch, always on the validation split and only among the epochs that
    reached the asked sparsity; ``last``: the last one."""
    precision: Literal["32", "bf16-mixed", "auto"] = "32"
    """``auto`` becomes, when the run starts, ``bf16-mixed`` on a CPU that computes with bfloat16
    in hardware, otherwise ``32``."""
    accelerator: Accelerator = "cpu"
    """``gpu`` is the first CUDA device."""
    threads: int = Field(default=1, ge=1)
    """Threads of the CPU."""
    network: NetworkConfig = NetworkConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    splitting: SplittingConfig = SplittingConfig()
    rules: tuple[RuleConfig, ...] = DEFAULT_RULES

    def model_post_init(self, _context: Any) -> None:
        """Check what fields alone cannot, whatever the method: numbers first, then what is used."""
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
        raise ConfigError(_explain(error, source, values)) from None


def dump_config(config: TrainConfig) -> str:
    """Return the whole configuration as TOML, defaults included."""
    import tomli_w

    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def _explain(error: ValidationError, source: str, values: dict[str, Any]) -> str:
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
    of = _whose(first["loc"], values)
    why = _OWN_WORDS.get(first["type"]) or _lower(first["msg"])
    return f'The key "{name}"{of} in {source} cannot be {first.get("input")!r}: {why}.'


_OWN_WORDS = {"model_type": "it is a section of keys", "tuple_type": "input should be a list"}
"""Where pydantic speaks of Python."""


def _whose(place: tuple[int | str, ...], values: dict[str, Any]) -> str:
    """Name the rule that a place in a list of rules belongs to."""
    match place, values:
        case ("rules", int(number), *_), {"rules": [*rules]}:
            match rules[number]:
                case {"pattern": str(pattern)}:
                    return f' of the rule for "{pattern}"'
    return ""


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]


SECTIONS: dict[str, type[BaseModel]] = {
    "network": NetworkConfig,
    "augmentation": AugmentationConfig,
    "splitting": SplittingConfig,
    "rules": RuleConfig,
}


def _model_at(place: list[str]) -> type[BaseModel]:
    return SECTIONS[place[0]] if place else TrainConfig
