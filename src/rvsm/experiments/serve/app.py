"""The page and what it asks, as a Starlette application."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from rvsm.errors import DataError, RvsmError
from rvsm.experiments.gather import NOTICE
from rvsm.experiments.serve.drawing import CSS_PX_PER_MM, MAX_POINTS, PX_PER_MM_RANGE, parse_drawing
from rvsm.experiments.serve.example import KINDS, example
from rvsm.experiments.serve.guard import Guard, Refused, body_of
from rvsm.experiments.serve.worker import Busy

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from rvsm.experiments.serve.answers import Oracle
    from rvsm.experiments.serve.store import Store
    from rvsm.experiments.serve.worker import Worker

MAX_DRAWING_BYTES = 8_000_000
MAX_SCAN_BYTES = 25_000_000
_STATIC = {"page.js": "text/javascript", "style.css": "text/css"}
_KEY = re.compile(r"[0-9a-f]{32}")

Endpoint = Callable[["Request"], Awaitable["Response"]]


def make_app(oracle: Oracle, worker: Worker, *, host: str, store: Store | None = None) -> Starlette:
    """Put the page together.

    Parameters
    ----------
    oracle
        What answers.
    worker
        The thread it answers in.
    host
        The address it will be served at: requests under other names are refused.
    store
        Where drawings and scans are kept; None keeps nothing.

    Returns
    -------
    Starlette
        An ASGI application.
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.responses import HTMLResponse, JSONResponse, Response
    from starlette.routing import Route

    async def page(request: Request) -> Response:
        return HTMLResponse(_html(oracle, store))

    async def static(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _STATIC:
            raise Refused(404, "There is no such file.")
        return Response(_read(name), media_type=_STATIC[name])

    async def drawing(request: Request) -> Response:
        body = await body_of(request, MAX_DRAWING_BYTES, "application/json", "The drawing")
        options = request.query_params
        explain = options.get("explain") != "no"
        answer = await worker.run(partial(_drawing, oracle, store, body, explain, _key(options)))
        return JSONResponse(answer)

    async def scan(request: Request) -> Response:
        body = await body_of(request, MAX_SCAN_BYTES, "application/octet-stream", "The scan")
        options = request.query_params
        whole, dpi = options.get("as") == "drawing", _dpi(options.get("dpi", ""))
        return JSONResponse(await worker.run(partial(_scan, oracle, store, body, whole, dpi)))

    async def shown(request: Request) -> Response:
        kind = request.path_params["kind"]
        if kind not in KINDS:
            raise Refused(404, f"There is no example {kind[:40]!r}: ask for {' or '.join(KINDS)}.")
        strokes, line = await worker.run(partial(example, kind, np.random.default_rng()))
        return JSONResponse({"strokes": strokes, "line": line})

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return JSONResponse({"error": str(error)}, error.status)

    async def wrong(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, 503 if isinstance(error, Busy) else 422)

    async def missing(request: Request, error: Exception) -> Response:
        status = int(getattr(error, "status_code", 404))
        return JSONResponse({"error": "There is nothing at this address: open /."}, status)

    async def broken(request: Request, error: Exception) -> Response:
        return JSONResponse(
            {"error": "Something went wrong in the program; the terminal says what."}, 500
        )

    return Starlette(
        routes=[
            Route("/", page),
            Route("/static/{name}", static),
            Route("/drawing", drawing, methods=["POST"]),
            Route("/scan", scan, methods=["POST"]),
            Route("/example/{kind}", shown),
        ],
        middleware=[Middleware(Guard, host=host)],
        exception_handlers={
            Refused: refused,
            RvsmError: wrong,
            404: missing,
            405: missing,
            Exception: broken,
        },
    )


def _drawing(
    oracle: Oracle, store: Store | None, body: bytes, explain: bool, key: str
) -> dict[str, Any]:
    drawing = parse_drawing(body)
    answer = oracle.drawing(drawing, explain=explain)
    # The answer with evidence comes when the pen has rested: that is the one to keep.
    kept = store.drawing(key, drawing, answer) if store and explain else None
    return {**answer, "stored": kept}


def _scan(
    oracle: Oracle, store: Store | None, body: bytes, whole: bool, dpi: float | None
) -> dict[str, Any]:
    if not body:
        raise DataError("The scan is an empty file of 0 bytes: choose another.")
    answer = oracle.scan(body, whole=whole, dpi=dpi)
    return {**answer, "stored": store.scan(body, answer) if store else None}


def _dpi(text: str) -> float | None:
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise Refused(
            422, "The dots per inch are no number: leave them empty, or 20-4800."
        ) from None


def _key(options: Any) -> str:
    given = str(options.get("key", ""))
    return given if _KEY.fullmatch(given) else ""


def _read(name: str) -> bytes:
    return (files("rvsm.experiments.serve") / "page" / name).read_bytes()


def _html(oracle: Oracle, store: Store | None) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("rvsm.experiments.serve", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        run=oracle.run_dir.resolve().name,
        method=oracle.method,
        zeros=f"{100 * oracle.zeros:.0f} %",
        compiled=oracle.compiled,
        kept=str(store.folder) if store else "",
        notice=NOTICE,
        px_per_mm=CSS_PX_PER_MM,
        px_per_mm_range=PX_PER_MM_RANGE,
        most_points=MAX_POINTS,
        most_bytes=MAX_SCAN_BYTES,
        kinds=KINDS,
    )
