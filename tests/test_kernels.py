"""rvsm.deploy.kernels: emitted C gives torch's results, for every shape, compiler and target."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernel_harness import Case, build, check, source_text
from rvsm.deploy.kernels import (
    Emitted,
    Epilogue,
    Layer,
    Plane,
    Variant,
    choose,
    emit,
    linear_layer,
    make_layer,
    variants,
)
from rvsm.errors import RvsmError

ACTIVATIONS = ("none", "relu", "relu6", "leaky_relu", "sigmoid", "tanh")
NATIVE = ["-march=native"]


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    """Draw small layers, odd in every way the kernels have a special case for."""
    whole = st.integers
    groups = draw(st.sampled_from([1, 1, 1, 2, 5]))
    per_group, out_per_group = draw(st.sampled_from([(1, 1), (1, 2), (2, 1), (3, 4), (4, 7)]))
    kernel = (draw(whole(1, 5)), draw(whole(1, 5)))
    stride = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (3, 1), (1, 3), (2, 3)]))
    dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (2, 3)]))
    padding = tuple(draw(whole(0, 3)) for _ in range(4))
    size = []
    for axis in range(2):
        reach = (kernel[axis] - 1) * dilation[axis] + 1 - sum(padding[2 * axis : 2 * axis + 2])
        size.append(draw(whole(max(1, reach), max(1, reach) + draw(st.sampled_from([0, 6, 40])))))
    rng = np.random.default_rng(draw(whole(0, 2**32 - 1)))
    outputs = groups * out_per_group
    weight = rng.standard_normal((outputs, per_group, *kernel), dtype=np.float32)
    weight *= rng.random(weight.shape) < draw(st.sampled_from([0.0, 0.1, 0.4, 1.0]))
    weight[rng.random(outputs) < draw(st.sampled_from([0.0, 0.5]))] = 0
    out = [
        (
            size[axis]
            + sum(padding[2 * axis : 2 * axis + 2])
            - (kernel[axis] - 1) * dilation[axis]
            - 1
        )
        // stride[axis]
        + 1
        for axis in range(2)
    ]
    pool = draw(st.sampled_from([None, None, (2, 2), (1, 3), (3, 2)]))
    if pool is not None and (out[0] < pool[0] or out[1] < pool[1]):
        pool = None
    epilogue = Epilogue(
        rng.standard_normal(outputs, dtype=np.float32) if draw(st.booleans()) else None,
        draw(st.sampled_from(ACTIVATIONS)),
        draw(st.sampled_from([0.1, -0.5])),
        pool is None and draw(st.booleans()),
        pool,
    )
    more = [draw(whole(0, 2)) for _ in range(8)]
    border = [p + q for p, q in zip(padding, more[:4], strict=True)]
    tight = border[2] + size[1] + border[3]
    images = draw(st.sampled_from([1, 1, 16, 16, 32, 8, 12]))
    orders = st.sampled_from(["channels"] + ["places"] * (images > 1))
    source = Plane(
        groups * per_group, *size, *border, tight + draw(st.sampled_from([0, 3])),
        draw(orders), images,
    )  # fmt: skip
    window = pool or (1, 1)
    target = Plane(
        outputs, out[0] // window[0], out[1] // window[1], *more[4:],
        order=draw(orders), lanes=images,
    )  # fmt: skip
    return make_layer(source, target, weight, stride, padding, dilation, groups, epilogue)


ALL = [
    Variant("direct"),
    Variant("direct", True),
    Variant("direct", together=3, input_blocks=2),
    Variant("direct", width=8),
    Variant("packed"),
    Variant("packed", True, together=2),
    Variant("packed", tile=(3, 5)),
    Variant("shifted", input_blocks=3),
    Variant("shifted", True),
    Variant("shifted", True, input_blocks=2, tile=(4, 16)),
    Variant("gather"),
    Variant("columns"),
    Variant("images", tile=(2, 4)),
    Variant("images", tile=(4, 6), input_blocks=2),
    Variant("images", together=3, tile=(1, 3)),
    Variant("images", width=8, tile=(2, 2), input_blocks=3),
]


def cases(layer: Layer, prefix: str, chosen: list[Variant]) -> list[Case]:
    """Return a case for each variant that the layer admits."""
    found = []
    for k, variant in enumerate(dict.fromkeys(chosen)):
        try:
            emitted = emit(f"{prefix}_{k}", layer, variant)
        except RvsmError:
            continue
        found.append(Case(emitted, layer))
    return found


def examples(count: int, seed: int) -> list[Case]:
    """Return every variant of drawn layers; drawn apart so that one compiler call serves all."""
    drawn: list[Layer] = []

    @settings(
        max_examples=count, database=None, deadline=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(layers(), st.integers(seed, seed))
    def draw(layer: Layer, _: int) -> None:
        drawn.append(layer)

    draw()
    return [
        case
        for k, layer in enumerate(drawn)
        for case in cases(layer, f"k{k}", [choose(layer), *ALL])
    ]


@pytest.fixture(scope="module")
def drawn() -> list[Case]:
    return examples(7, 0)


def compile_and_check(
    folder: Path, chosen: list[Case], compiler: str = "gcc", flags: list[str] | None = None
) -> None:
    """Compile all cases in one call and compare each with torch."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    library = build(folder, [case.emitted for case in chosen], compiler, flags or [])
    for case in chosen:
        check(library, case)


@pytest.mark.parametrize(
    ("compiler", "flags"),
    [
        ("gcc", NATIVE),
        ("gcc", ["-mavx2", "-mfma"]),
        ("gcc", []),
        ("gcc", ["-DRVSM_PLAIN"]),
        ("clang", ["-mavx2", "-mfma"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "".join(value) or "baseline",
)
def test_equals_torch(tmp_path: Path, drawn: list[Case], compiler: str, flags: list[str]) -> None:
    # A part of the cases for each target: all of them on all take minutes.
    part = {"-mavx2": 0, "-DRVSM_PLAIN": 1}.get("".join(flags[:1]), 2)
    compile_and_check(tmp_path, drawn[part::3], compiler, flags)


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("flags", [NATIVE, ["-mavx2", "-mfma"], ["-mavx"], [], ["-DRVSM_PLAIN"]])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.timeout(900)
def test_equals_torch_widely(tmp_path: Path, compiler: str, flags: list[str], seed: int) -> None:
    compile_and_check(tmp_path, examples(40, seed + 1), compiler, flags)


def linear_cases() -> list[Case]:
    rng = np.random.default_rng(0)
    found = []
    for k, (features, outputs, lanes, density) in enumerate(
        [(1, 1, 1, 1.0), (37, 10, 1, 0.3), (50, 130, 1, 0.1), (20, 33, 1, 0.0), (37, 10, 8, 0.3),
         (30, 12, 64, 0.2), (9, 5, 24, 1.0), (9, 5, 3, 0.5)]
    ):  # fmt: skip
        weight = rng.standard_normal((outputs, features), dtype=np.float32)
        weight *= rng.random(weight.shape) < density
        bias = rng.standard_normal(outputs, dtype=np.float32)
        layer = linear_layer(weight, Epilogue(bias, "relu", residual=k % 2 == 1), lanes)
        found += cases(layer, f"l{k}", [*ALL[:1], *ALL[2:4], *ALL[-2:]])
        found.append(Case(emit(f"l{k}", layer, choose(layer)), layer))
    return found


@pytest.mark.parametrize("flags", [NATIVE, ["-mavx2", "-mfma"], []], ids=["native", "avx2", "sse"])
def test_linear_equals_torch(tmp_path: Path, flags: list[str]) -> None:
    compile_and_check(tmp_path, linear_cases(), flags=flags)


def test_offsets_of_any_size(tmp_path: Path) -> None:
    """Tables of 16 bits where offsets fit them, of 32 bits otherwise; both with few entries."""
    rng = np.random.default_rng(0)
    found = []
    for k, (channels, density, lanes) in enumerate([(100, 0.1, 1), (100, 0.005, 1), (40, 0.2, 16)]):
        weight = rng.standard_normal((3, channels, 2, 2), dtype=np.float32)
        weight *= rng.random(weight.shape) < density
        source = Plane(channels, 30, 30, lanes=lanes)
        layer = make_layer(source, Plane(3, 29, 29, lanes=lanes), weight)
        found += cases(layer, f"w{k}", [choose(layer), Variant("direct"), Variant("direct", True)])
    codes = [case.emitted.code for case in found]
    assert any("rvsm_entry" in code for code in codes)
    assert any("rvsm_four" in code for code in codes)
    compile_and_check(tmp_path, found, flags=NATIVE)


def test_no_sanitizer_complains(tmp_path: Path, drawn: list[Case]) -> None:
    """A program of its own: the address sanitizer must be the first library of a process."""
    flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g1", "-mavx2", "-mfma"]
    chosen = [*drawn[1::4], *linear_cases()[::4]]
    (tmp_path / "all.c").write_text(program([case.emitted for case in chosen], chosen))
    program_file = tmp_path / "all"
    command = ["gcc", "-std=c11", "-O1", *flags, tmp_path / "all.c", "-o", program_file, "-lm"]
    built = subprocess.run(command, capture_output=True, text=True)
    if built.returncode != 0 and "cannot find" in built.stderr:
        pytest.skip("gcc has no sanitizers here")
    assert built.returncode == 0, built.stderr[:2000]
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run([program_file], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[:4000]


def program(emitted: list[Emitted], chosen: list[Case]) -> str:
    """Return a main function that runs every case on buffers of exactly the promised size."""
    lines = ["#include <stdlib.h>"]
    lines.append(
        "static float *make(size_t n) { n = (n + 16 + 15) / 16 * 16; "
        "float *p = aligned_alloc(64, n * sizeof(float)); "
        "for (size_t i = 0; i < n; i++) p[i] = (float)(i % 7) - 3.0f; return p; }"
    )
    lines.append("int main(void) { float *a, *b, *c, *d;")
    for one, case in zip(emitted, chosen, strict=True):
        source, target = case.layer.source.size, case.layer.target.size
        lines.append(
            f"a = make({source}); b = make({target}); c = make({target}); d = make({one.scratch});"
            f"call_{one.name}(a, b, c, d); free(a); free(b); free(c); free(d);"
        )
    return source_text(emitted) + "\n".join(lines) + "\nreturn 0; }\n"


def test_code_is_the_same_each_time() -> None:
    weight = np.random.default_rng(0).standard_normal((3, 2, 3, 3), dtype=np.float32)
    planes = Plane(2, 5, 5, 1, 1, 1, 1), Plane(3, 5, 5)
    layer = make_layer(*planes, weight, padding=(1, 1))
    first, second = (emit("same", layer, choose(layer)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("density", [0.0, 0.02, 0.3, 1.0])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2)])
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (64, 7), (32, 1), (16, 33)])
def test_every_listed_variant_can_be_emitted(
    channels: int, size: int, stride: tuple[int, int], density: float
) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((8, channels, 3, 3), dtype=np.float32)
    weight *= rng.random(weight.shape) < density
    out = (size - 1) // stride[0] + 1
    source, target = Plane(channels, size, size, 1, 1, 1, 1), Plane(8, out, out)
    layer = make_layer(source, target, weight, stride, (1, 1))
    listed = variants(layer)
    assert listed[0] == choose(layer)
    assert len(set(listed)) == len(listed)
    assert len({str(variant) for variant in listed}) == len(listed)
    for variant in listed:
        emit("f", layer, variant)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"padding": (2, 2), "target": Plane(3, 8, 8)}, "border"),
        ({"groups": 3}, "groups"),
        ({"stride": (0, 1)}, "at least 1"),
        ({"dilation": (4, 4)}, "larger than"),
        ({"target": Plane(3, 4, 6)}, "does not fit a target"),
        ({"weight": np.full((3, 2, 3, 3), np.nan, dtype=np.float32)}, "NaN"),
        ({"weight": np.zeros((3, 2, 3, 3))}, "float32"),
        ({"variant": Variant(together=9)}, "output channels"),
        ({"variant": Variant(input_blocks=9)}, "input channels"),
        ({"variant": Variant("gather")}, "one place"),
        ({"variant": Variant("images")}, "does not fit maps of 1 images"),
        (
            {
                "source": Plane(2, 6, 6, 1, 1, 1, 1, lanes=3),
                "target": Plane(3, 6, 6, lanes=3),
                "variant": Variant("images"),
            },
            "divide by 4",
        ),
    ],
)
def test_bad_layers_are_refused(change: dict[str, Any], match: str) -> None:
    weight = np.zeros((3, 2, 3, 3), dtype=np.float32)
    given: dict[str, Any] = {
        "source": Plane(2, 6, 6, 1, 1, 1, 1), "target": Plane(3, 6, 6), "weight": weight,
        "padding": (1, 1),
    }  # fmt: skip
    with pytest.raises(RvsmError, match=match):
        _emitted(**(given | change))


def _emitted(variant: Variant | None = None, **given: Any) -> Emitted:
    layer = make_layer(**given)
    return emit("f", layer, variant or choose(layer))


def test_bad_parts_are_refused() -> None:
    with pytest.raises(RvsmError, match="pitch"):
        Plane(1, 2, 3, pitch=2)
    with pytest.raises(RvsmError, match="at least 1"):
        Plane(0, 2, 3)
    with pytest.raises(RvsmError, match="no activation"):
        Epilogue(activation="gelu")  # type: ignore[arg-type]
    with pytest.raises(RvsmError, match="pooling"):
        Epilogue(pool=(2, 2), residual=True)
    with pytest.raises(RvsmError, match="two dimensions"):
        linear_layer(np.zeros((1, 1, 1), dtype=np.float32))
