"""From C to a shared library: the system's compiler, and a private cache of what it made."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

from rvsm.atomic import explain
from rvsm.errors import CompilerError, RvsmError, first_line
from rvsm.processor import processor_facts

FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
_SECONDS = 600
_REMEDY = "name another compiler in the variable CC"


def find_compiler() -> str | None:
    """Return the path of the C compiler: that of the variable CC, or cc, gcc or clang."""
    named = os.environ.get("CC")
    for name in (named,) if named else ("cc", "gcc", "clang"):
        found = shutil.which(name)
        if found is not None:
            return found
    return None


def no_compiler() -> str:
    """Say, without a full stop, why `find_compiler` returned None."""
    named = os.environ.get("CC")
    if named:
        return f"The variable CC names {named!r}, and there is no such program"
    return "No C compiler was found (cc, gcc, clang or the variable CC)"


def cache_folder() -> Path:
    """Return the private folder of compiled libraries, made if it is not there.

    It is ``$RVSM_CACHE`` or ``$XDG_CACHE_HOME/rvsm`` or ``~/.cache/rvsm``. What it holds is run,
    so it must belong to the user and to nobody else.

    Raises
    ------
    CompilerError
        If it cannot be made, or is not private.
    """
    own = os.environ.get("RVSM_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        folder = Path(own or f"{base}/rvsm").expanduser()
    except RuntimeError as error:  # a user without a home
        raise CompilerError(
            f"There is no folder for compiled code: {first_line(error)} The variable RVSM_CACHE "
            "names one."
        ) from error
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        raise CompilerError(
            f"{explain(error, folder)} The variable RVSM_CACHE names another folder."
        ) from error
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise CompilerError(
            f"{folder} holds code that is run, and others can write or read there: give it mode "
            "700, or name another folder in the variable RVSM_CACHE."
        )
    return folder


def cached(suffix: str, *texts: str) -> Path:
    """Return where something made of these texts is kept, on this machine's processor."""
    key = "\0".join((*texts, _processor()))
    return cache_folder() / (hashlib.sha256(key.encode()).hexdigest()[:32] + suffix)


def build(code: str, compiler: str, flags: tuple[str, ...] = ()) -> Path:
    """Compile C source to a shared library for this machine, or find it made before.

    Parameters
    ----------
    code
        C source.
    compiler
        Path of a compiler that understands GCC's options.
    flags
        More options; later ones win.

    Returns
    -------
    Path
        The library, in :func:`cache_folder`, under a name made of source, compiler, options and
        the processor's features.

    Raises
    ------
    CompilerError
        If the compiler fails, with the first line of what it says.
    """
    options = (*FLAGS, "-march=native", *_openmp(compiler), *flags)
    library = cached(".so", code, compiler, version(compiler), *options)
    if library.exists():
        return library
    try:
        with tempfile.TemporaryDirectory(dir=library.parent, prefix=".build-") as folder:
            source, made = Path(folder) / "network.c", Path(folder) / "network.so"
            source.write_text(code)
            command = [compiler, *options, "-shared", "-fPIC", str(source), "-o", str(made), "-lm"]
            _run(command)
            if not made.exists():
                raise CompilerError(f"{compiler} says it succeeded and wrote nothing; {_REMEDY}.")
            made.chmod(0o600)
            made.replace(library)
    except OSError as error:
        raise CompilerError(
            f"{explain(error, library)} The variable RVSM_CACHE names another folder."
        ) from error
    return library


def open_library(library: Path) -> ctypes.CDLL:
    """Load a shared library that `build` made.

    Raises
    ------
    CompilerError
        If it is damaged, or its disk forbids to run what it holds.
    """
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:
        cause = first_line(error).removeprefix(f"{library}: ")
        raise CompilerError(
            f"{library} cannot be loaded ({cause}): delete it, or name another folder in the "
            "variable RVSM_CACHE."
        ) from error


class Part:
    """A C file whose functions take pointers, longs and floats, and return a long or nothing.

    Called with a function's name and its arguments: tensors, for where they begin, int and float,
    and what ctypes takes as it is. The functions trust sizes and layouts.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._functions: dict[str, Any] = {}

    def __call__(self, name: str, *values: Any) -> int:
        function = self._functions.get(name)
        if function is None:
            function = self._functions[name] = self._library[name]
            function.restype = ctypes.c_long
        return int(function(*map(_argument, values)))


def _argument(value: Any) -> Any:
    if isinstance(value, float):
        return ctypes.c_float(value)
    if isinstance(value, int):
        return ctypes.c_long(value)
    return ctypes.c_void_p(value.data_ptr()) if hasattr(value, "data_ptr") else value


@functools.cache
def part_of(package: str, name: str) -> Part | None:
    """Return a C file of a package, compiled; None where it cannot be.

    For what is only faster in C: the caller has another way.
    """
    compiler = find_compiler()
    if compiler is None:
        return None
    code = files(package).joinpath(name).read_text("utf-8")
    try:
        return Part(open_library(build(code, compiler)))
    except (RvsmError, OSError):
        return None


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            env=os.environ | {"LC_ALL": "C"},  # what it says is searched for English words
        )
    except subprocess.TimeoutExpired as error:
        raise CompilerError(
            f"{command[0]} did not finish within {_SECONDS} s; what it compiles may be too large."
        ) from error
    except OSError as error:
        raise CompilerError(explain(error, command[0], "run")) from error
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        said = [line for line in lines if "error" in line] or lines or ["it gives no reason"]
        raise CompilerError(f"{command[0]} failed ({said[0]}); {_REMEDY}.")
    return done.stdout


@functools.cache
def version(compiler: str) -> str:
    return _run([compiler, "--version"])


@functools.cache
def _openmp(compiler: str) -> tuple[str, ...]:
    """Return the option for threads where the compiler has them."""
    with tempfile.TemporaryDirectory(prefix="rvsm-") as folder:
        source = Path(folder) / "threads.c"
        source.write_text("#include <omp.h>\nint threads(void) { return omp_get_max_threads(); }\n")
        made = str(Path(folder) / "threads.so")
        try:
            _run([compiler, "-fopenmp", "-shared", "-fPIC", str(source), "-o", made])
        except RvsmError:
            return ()
    return ("-fopenmp",)


@functools.cache
def _processor() -> str:
    """Return what tells this machine's instruction set from another's."""
    facts = processor_facts()
    known = [facts.get(key, "") for key in ("flags", "Features", "model name")]
    return "\n".join((platform.machine(), platform.processor(), *known))
