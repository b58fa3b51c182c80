"""Who may ask the page: requests by other sites, other names and too large ones are refused."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


UPLOAD_S = 60.0
"""How long a drawing or a scan may take to arrive."""


class Refused(Exception):
    """A request that gets no answer but a status and one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Guard:
    """Middleware that lets only the page itself ask.

    A page of another site can make a browser send requests here, and can let its own name point
    here (DNS rebinding); a foreign name in Host, and a foreign Origin, give both away.

    Parameters
    ----------
    app
        What answers the requests let through.
    host
        The address the server is bound to; a loopback address is asked for under such names only,
        another one under any address and its own name.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app = app
        self._host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1"): v.decode("latin-1") for name, v in scope["headers"]}
        refused = self.refusal(scope["method"], headers)
        if refused is not None:
            from starlette.responses import JSONResponse

            await JSONResponse({"error": refused}, 403, HEADERS)(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        await self._app(scope, receive, send_with_headers)

    def refusal(self, method: str, headers: dict[str, str]) -> str | None:
        """Why a request is refused, in one sentence; None lets it through."""
        host = headers.get("host", "")
        if not allowed(host, self._host):
            return (
                f"This page answers under its own address only, not as {host[:100]!r}: open the "
                "address that rvsm serve printed."
            )
        if method not in {"GET", "HEAD"}:
            origin = headers.get("origin")
            site = headers.get("sec-fetch-site", "same-origin")
            if (origin is not None and origin != f"http://{host}") or site != "same-origin":
                return "Another site sent this request: only the page itself may ask."
        return None


def allowed(asked: str, bound: str) -> bool:
    """Whether a Host header names a server bound to the address `bound`.

    Parameters
    ----------
    asked
        ``127.0.0.1:8000``, ``localhost``, ``[::1]:8000``, ...
    bound
        An address or a name.
    """
    try:
        split = urlsplit(f"//{asked}")
        name, _ = split.hostname or "", split.port  # a port that is no number raises
    except ValueError:
        return False
    if not name or split.netloc != asked or "@" in asked:
        return False
    if name in {"localhost", bound.lower()}:
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or not is_loopback(bound)


def is_loopback(host: str) -> bool:
    """Whether an address or name is of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


async def body_of(request: Request, most: int, kind: str, what: str) -> bytes:
    """Read the body of a request, no further and no longer than allowed.

    Parameters
    ----------
    request
    most
        Bytes.
    kind
        The content type it must have.
    what
        The drawing or the scan, for the sentence.

    Raises
    ------
    Refused
        415 for another type, 413 for a larger one, 408 for one that does not end, 400 for one that
        breaks off.
    """
    from starlette.requests import ClientDisconnect

    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != kind:
        raise Refused(415, f"{what} comes as {given or 'nothing'}: send it as {kind}.")
    too_large = Refused(
        413, f"{what} is larger than {most // 1_000_000} MB: send a smaller one, or a part of it."
    )
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > most:
        raise too_large
    try:
        async with asyncio.timeout(UPLOAD_S):
            body = bytearray()
            async for part in request.stream():
                body += part
                if len(body) > most:
                    raise too_large
            return bytes(body)
    except TimeoutError:
        raise Refused(408, f"{what} did not arrive in {UPLOAD_S:g} seconds: try again.") from None
    except ClientDisconnect:
        raise Refused(400, f"{what} broke off: try again.") from None
