"""A model as one ONNX file that ONNX Runtime, OpenVINO and others run: checked before it is there.

torch's own exporter translates the model and onnxscript's optimizer folds constants and batch
norm; what is added here is the certainty that the file computes what the model does.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from rvsm.atomic import atomic_write
from rvsm.deploy.files import unwrapped
from rvsm.deploy.onnx_checks import check_valid, compare
from rvsm.errors import RvsmError, first_line
from rvsm.modes import evaluating

if TYPE_CHECKING:
    import onnx

_BATCH = "batch"
# Protocol buffers, of which an ONNX file is one, end at 2 GiB.
_LARGEST = 2**31 - 1


@dataclass(frozen=True)
class OnnxAccount:
    """What `export_onnx` wrote and how well it computes what the model does.

    Attributes
    ----------
    path, size
        The file and its bytes.
    opset
        Version of the ONNX operators.
    operators
        How often each operator occurs.
    inputs, outputs
        Shapes by name; a dimension that is not fixed is a text.
    batches
        Batch sizes at which ONNX Runtime and PyTorch were compared; none without ONNX Runtime.
    difference
        The largest absolute difference between their outputs, or None.
    scale
        The largest absolute output, or None.
    """

    path: Path
    size: int
    opset: int
    operators: dict[str, int]
    inputs: dict[str, tuple[int | str, ...]]
    outputs: dict[str, tuple[int | str, ...]]
    batches: tuple[int, ...]
    difference: float | None
    scale: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, lists and texts, ready for JSON."""
        shapes = {
            side: {name: list(shape) for name, shape in getattr(self, side).items()}
            for side in ("inputs", "outputs")
        }
        plain = asdict(self) | shapes
        return plain | {"path": str(self.path), "batches": list(self.batches)}

    def __str__(self) -> str:
        told = f"{self.path}: {self.size:,} bytes, opset {self.opset}, "
        if self.difference is None:
            return told + "not compared with PyTorch"
        sizes = " and ".join(map(str, self.batches))
        return (
            f"{told}outputs of ONNX Runtime at batch {sizes} differ by at most "
            f"{self.difference:.1e} from PyTorch's (largest: {self.scale:.3g})"
        )


def export_onnx(
    model: nn.Module,
    example: Tensor | Sequence[Tensor],
    path: Path | str,
    *,
    dynamic_batch: bool = True,
    opset: int = 20,
    check: bool = True,
    tolerance: float | None = None,
) -> OnnxAccount:
    """Write a model, as it evaluates, to one ONNX file.

    Zeros are stored and multiplied like any weight: remove what is wholly zero first, and export
    after `optimizer.finalize()` or inside `optimizer.sparse_weights()`.

    Parameters
    ----------
    model
        A module; its training mode is as before when this returns. `torch.compile` and parallel
        wrappers around it are left out.
    example
        One input ``(B, ...)``, or a sequence of the positional inputs: their dtypes and shapes
        become those of the file. They are called ``input``, or ``input_0``, ``input_1``, ...;
        outputs ``output``, or ``output_0``, ...
    path
        The file, replaced atomically once all checks have passed; `.onnx` is the customary ending.
    dynamic_batch
        Leave the first dimension of all inputs free. Otherwise the file takes B rows only.
    opset
        Version of the ONNX operators, 18 or later.
    check
        Check the model by `onnx.checker` and, where `onnxruntime` is installed, compare its
        outputs with the model's on the example and, with `dynamic_batch`, on another batch.
    tolerance
        Largest difference allowed, relative to the largest output. By default 1e-4, or
        16 units of rounding where these are more (float16, bfloat16).

    Returns
    -------
    OnnxAccount
        Size, operators, shapes, and the difference found.

    Raises
    ------
    RvsmError
        If the model does not take the example, cannot be traced, has an operation that ONNX
        lacks, or the file computes something else; if the extra `rvsm[onnx]` is missing; if the
        file cannot be written. Nothing is written then, and a file that was there stays.

    Examples
    --------
    >>> import torch
    >>> from rvsm.deploy.onnx import export_onnx
    >>> account = export_onnx(torch.nn.Linear(3, 2), torch.zeros(1, 3), "/tmp/linear.onnx")
    >>> account.outputs
    {'output': ('batch', 2)}
    """
    _require_packages()
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise RvsmError(
            f"Cannot export a {type(model).__name__}: torch's exporter traces Python modules; "
            "give the torch.nn.Module itself."
        )
    inputs = _inputs(example, dynamic_batch)
    model = unwrapped(model)
    batches = [inputs]
    with evaluating(model), _watched(model) as entered:
        outputs = [_run(model, inputs, entered, "the example")]
        if dynamic_batch:
            batches.append(_other_batch(inputs))
            size = batches[1][0].shape[0]
            outputs.append(_run(model, batches[1], entered, f"a batch of {size}"))
            _check_follows(outputs[1], size)
        # Traced with the larger batch: torch takes a size of 1 for a constant.
        program = _trace(model, batches[-1], entered, dynamic_batch)
        proto = _translate(program, len(outputs[0]), opset, len(inputs), dynamic_batch)
    if proto.ByteSize() > _LARGEST:
        raise RvsmError(
            f"The model takes {proto.ByteSize() / 2**30:.1f} GiB and one ONNX file holds 2; "
            "shrink it, or export it in half precision with model.half()."
        )
    serialized = proto.SerializeToString(deterministic=True)
    difference = scale = None
    compared: tuple[int, ...] = ()
    if check:
        check_valid(serialized)
        if importlib.util.find_spec("onnxruntime") is not None:
            difference, scale = compare(serialized, batches, outputs, tolerance)
            compared = tuple(batch[0].shape[0] if batch[0].dim() else 1 for batch in batches)
    with atomic_write(path) as stream:
        stream.write(serialized)
    return OnnxAccount(
        path=Path(path),
        size=len(serialized),
        opset=opset,
        operators=dict(Counter(node.op_type for node in proto.graph.node)),
        inputs={value.name: _shape(value) for value in proto.graph.input},
        outputs={value.name: _shape(value) for value in proto.graph.output},
        batches=compared,
        difference=difference,
        scale=scale,
    )


def _require_packages() -> None:
    for name in ("onnx", "onnxscript"):
        if importlib.util.find_spec(name) is None:
            raise RvsmError(
                f"ONNX export needs {name}, which is not installed: pip install 'rvsm[onnx]'"
            )


def _inputs(example: object, dynamic_batch: bool) -> tuple[Tensor, ...]:
    """Return the positional inputs, or raise if they are no tensors or share no batch size."""
    given = (example,) if isinstance(example, Tensor) else example
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise RvsmError(
            f"The example is {_kind(example)}; give a tensor as the model takes it, or a tuple "
            "of its positional inputs."
        )
    inputs = []
    for value in given:
        if not isinstance(value, Tensor):
            raise RvsmError(
                f"The example holds {_kind(value)}; give tensors alone, and other arguments as "
                "defaults of the model's forward."
            )
        if value.numel() == 0:
            raise RvsmError(
                f"The example of shape {tuple(value.shape)} is empty; give at least one row."
            )
        inputs.append(value.detach())
    if dynamic_batch and len({value.shape[:1] for value in inputs} | {torch.Size([])}) != 2:
        shapes = ", ".join(str(tuple(value.shape)) for value in inputs)
        raise RvsmError(
            f"The example's first dimension is no common batch size (shapes {shapes}); give "
            "inputs with as many rows each, or pass dynamic_batch=False."
        )
    return tuple(inputs)


def _kind(value: object) -> str:
    return "empty" if isinstance(value, Sequence) and not value else f"a {type(value).__name__}"


def _other_batch(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return inputs with another batch size, their entries drawn from those of the example.

    So indices and masks stay valid; floats that are all alike get noise, to tell rows apart.
    """
    size = 5 if inputs[0].shape[0] != 5 else 3
    generator = torch.Generator().manual_seed(0)
    other = []
    for value in inputs:
        flat = value.flatten().cpu()
        shape = (size, *value.shape[1:])
        drawn = flat[torch.randint(flat.numel(), shape, generator=generator)]
        if value.is_floating_point() and bool((flat == flat[0]).all()):
            drawn += torch.rand(shape, generator=generator).to(drawn)
        other.append(drawn.to(value.device))
    return tuple(other)


@contextlib.contextmanager
def _watched(model: nn.Module) -> Iterator[list[str]]:
    """Yield the list of the layers that are running, outermost first.

    After an error it ends with the layer in which it occurred: torch's exporter cuts the
    traceback that would tell.
    """
    entered: list[str] = []
    handles = []
    for name, module in model.named_modules():
        described = f"{name or 'the model'} ({type(module).__name__})"

        def enter(*_: object, described: str = described) -> None:
            entered.append(described)

        def leave(*_: object) -> None:
            entered.pop()

        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(leave))
    try:
        yield entered
    finally:
        for handle in handles:
            handle.remove()


def _run(
    model: nn.Module, inputs: tuple[Tensor, ...], entered: list[str], what: str
) -> list[Tensor]:
    """Return the model's output tensors, on the CPU."""
    entered.clear()
    try:
        with torch.no_grad():
            leaves = tree_leaves(model(*inputs))
    except Exception as error:
        shapes = ", ".join(f"{value.dtype} {tuple(value.shape)}" for value in inputs)
        remedy = "give an example as the model takes it"
        if what != "the example":
            remedy = "pass dynamic_batch=False if it takes one batch size only"
        raise RvsmError(
            f"The model does not take {what} ({shapes}): {first_line(error)} in "
            f"{_innermost(entered)}; {remedy}."
        ) from error
    if not leaves or not all(isinstance(leaf, Tensor) for leaf in leaves):
        kinds = ", ".join(sorted({type(leaf).__name__ for leaf in leaves})) or "nothing"
        raise RvsmError(
            f"The model returns {kinds}, and ONNX knows tensors alone; wrap it in a module that "
            "returns tensors."
        )
    return [leaf.detach().cpu() for leaf in leaves]


def _check_follows(outputs: list[Tensor], size: int) -> None:
    if odd := [tuple(value.shape) for value in outputs if value.shape[:1] != (size,)]:
        raise RvsmError(
            f"Of a batch of {size} the model makes an output of shape {odd[0]}, without a row for "
            "each input; pass dynamic_batch=False."
        )


def _innermost(entered: list[str]) -> str:
    return entered[-1] if entered else "the model"


def _trace(
    model: nn.Module, inputs: tuple[Tensor, ...], entered: list[str], dynamic_batch: bool
) -> torch.export.ExportedProgram:
    shapes = None
    if dynamic_batch:
        free = {0: torch.export.Dim(_BATCH)}
        given = inspect.signature(model.forward).bind(*inputs).arguments
        # What *inputs takes is one argument, a tuple.
        shapes = {
            name: tuple(free for _ in value) if isinstance(value, tuple) else free
            for name, value in given.items()
        }
    entered.clear()
    try:
        with _quiet(), torch.no_grad():
            return torch.export.export(model, inputs, dynamic_shapes=shapes, strict=False)
    except Exception as error:
        remedy = "make what it computes independent of the values it sees"
        if dynamic_batch:
            remedy += ", or pass dynamic_batch=False if it takes one batch size only"
        raise RvsmError(
            f"Cannot trace {_innermost(entered)}: {first_line(error)}; {remedy}."
        ) from error


def _translate(
    program: torch.export.ExportedProgram, outputs: int, opset: int, inputs: int, dynamic: bool
) -> onnx.ModelProto:
    """Return the ONNX form of a traced model, optimized and without the paths of its sources."""
    import onnx_ir.passes.common
    import onnxscript.optimizer

    try:
        with _quiet(), torch.no_grad():
            translated = torch.onnx.export(
                program,
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=opset,
                input_names=_names("input", inputs),
                output_names=_names("output", outputs),
                # Read for the name of the dimension only: the program has its shapes.
                dynamic_shapes=tuple({0: _BATCH} for _ in range(inputs)) if dynamic else None,
            )
            assert translated is not None
            made = translated.model
            # Not the limits of the exporter: weights cut to the channels that are left would stay
            # a computation. No constant is larger than the largest weight.
            largest = max(
                (
                    value.const_value.size
                    for value in made.graph.initializers.values()
                    if value.const_value is not None
                ),
                default=0,
            )
            onnxscript.optimizer.optimize(made, input_size_limit=largest, output_size_limit=largest)
            # Its stack traces hold the paths of this machine, and are most of a small file.
            onnx_ir.passes.common.ClearMetadataAndDocStringPass()(made)
            proto = onnx_ir.to_proto(made)
            graph = proto.graph
            for entry in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
                entry.ClearField("metadata_props")
    except Exception as error:
        raise RvsmError(_untranslatable(error, opset)) from error
    found = {entry.domain: entry.version for entry in proto.opset_import}.get("")
    if found != opset:
        raise RvsmError(
            f"torch's exporter wrote opset {found} where {opset} was asked for; choose an opset "
            "from 18 to the newest that onnx and torch know."
        )
    return proto


def _untranslatable(error: BaseException, opset: int) -> str:
    """Say which operation of which layer could not be translated."""
    node = _failing_node(error)
    if node is None:
        return (
            f"torch's ONNX exporter failed at opset {opset}: {first_line(_root(error))}; choose "
            "another opset or a newer torch and onnxscript."
        )
    modules: Mapping[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
    name, kind = list(modules.values())[-1] if modules else ("", "")
    kind = kind if isinstance(kind, str) else kind.__name__
    where = f"{name or 'the model'} ({kind.rpartition('.')[2]})" if kind else "the model"
    return (
        f"ONNX has no counterpart that torch's exporter knows for {node.target} in {where}; "
        "write that layer with other operations, or leave it out of the exported module."
    )


def _failing_node(error: BaseException) -> torch.fx.Node | None:
    """Return the traced operation at which the exporter stopped: no exception carries it."""
    found = None
    cause: BaseException | None = error
    while cause is not None:
        for frame, _ in walk_tb(cause.__traceback__):
            node = frame.f_locals.get("node")
            found = node if isinstance(node, torch.fx.Node) else found
        cause = cause.__cause__
    return found


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's exporter, which warns of its own use of torch and prints what it raises."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    unread = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(unread),
            contextlib.redirect_stderr(unread),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _names(kind: str, count: int) -> list[str]:
    return [kind] if count == 1 else [f"{kind}_{number}" for number in range(count)]


def _shape(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_param if dim.HasField("dim_param") else dim.dim_value for dim in dims)
