"""HTTP requests → responses: the ASGI application with its routes and limits, for loopback only."""

from __future__ import annotations

import asyncio
import html
import sys
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar
from urllib.parse import urlsplit

import orjson
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from lorawright.inference import completion
from lorawright.inference.chat_request import ChatRequest, RefusedRequest, parse
from lorawright.inference.completion import Completion
from lorawright.inference.generate import Sampling
from lorawright.inference.request_queue import RequestQueue
from lorawright.inference.stream_filter import Answer

HOSTS = ("127.0.0.1", "localhost", "::1")
MOST_BODY_BYTES = 8_000_000
LONGEST_BODY_SECONDS = 30.0  # for a body to arrive
CLIENT_CLOSED = 499  # nobody reads it; nginx's number

T = TypeVar("T")


def application(queue: RequestQueue, name: str, sampling: Sampling) -> Starlette:
    """The application.

    Args:
        queue: The way to the model.
        name: What `/v1/models` lists; any other name is answered too.
        sampling: For what a request leaves open.
    """
    model = {"id": name, "object": "model", "created": 0, "owned_by": "lorawright"}

    async def page(request: Request) -> Response:
        shown = {"{{name}}": name, "{{address}}": str(request.base_url)}
        text = PAGE
        for mark, value in shown.items():
            text = text.replace(mark, html.escape(value))
        return HTMLResponse(text)

    async def health(_: Request) -> Response:
        return _json({"status": "ok"})

    async def models(_: Request) -> Response:
        return _json({"object": "list", "data": [model]})

    async def one_model(_: Request) -> Response:
        return _json(model)

    async def chat(request: Request) -> Response:
        try:
            asked = parse(await _body(request), sampling)
            return await _answer(queue, request, asked, Completion(name))
        except RefusedRequest as refused:
            return _refusal(refused)
        except (ClientDisconnect, _DisconnectedError):
            return Response(status_code=CLIENT_CLOSED)
        except Exception as error:  # the outermost edge of a request: one line, the server goes on
            return _refusal(_unexpected(error))

    return Starlette(
        routes=[
            Route("/", page),
            Route("/health", health),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", one_model),
            Route("/v1/chat/completions", chat, methods=["POST"]),
        ],
        middleware=[Middleware(_LocalOnly)],
        exception_handlers={HTTPException: _no_such_route},
    )


class _LocalOnly:
    """Middleware that refuses what does not come from this machine's programs.

    A web page elsewhere can send requests here from the user's browser: under a name of its own
    that it has let point to 127.0.0.1 (seen by Host), or across origins (seen by Origin).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        refused = None
        if _hostname(host) not in HOSTS:
            refused = RefusedRequest(
                "Host is not this machine; ask 127.0.0.1 or localhost", status=403
            )
        elif origin is not None and origin.lower() != f"http://{host.lower()}":
            refused = RefusedRequest("pages of another origin are not answered", status=403)
        app = self._app if refused is None else _refusal(refused)
        await app(scope, receive, send)


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


async def _body(request: Request) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RefusedRequest("Content-Type must be application/json", status=415)
    body = bytearray()
    try:
        async with asyncio.timeout(LONGEST_BODY_SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > MOST_BODY_BYTES:
                    raise RefusedRequest(
                        f"the body has more than {MOST_BODY_BYTES} bytes", status=413
                    )
    except TimeoutError:
        raise RefusedRequest(
            f"the body did not arrive within {LONGEST_BODY_SECONDS:.0f} seconds", status=408
        ) from None
    return bytes(body)


async def _answer(
    queue: RequestQueue, request: Request, asked: ChatRequest, made: Completion
) -> Response:
    events = queue.answer(asked)
    if asked.stream:
        first = await _unless_disconnected(request, anext(events))  # a refusal still has a status
        return StreamingResponse(
            _stream(first, events, asked, made),
            media_type="text/event-stream",
            headers={"cache-control": "no-cache"},
        )
    return _json(await _unless_disconnected(request, _whole(events, made)))


async def _whole(events: AsyncGenerator[str | Answer], made: Completion) -> dict[str, Any]:
    pieces: list[str] = []
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Answer):
                return made.whole(pieces, event)
            pieces.append(event)
    raise AssertionError


async def _stream(
    event: str | Answer, events: AsyncGenerator[str | Answer], asked: ChatRequest, made: Completion
) -> AsyncGenerator[bytes]:
    async with aclosing(events):
        yield made.chunk({"role": "assistant", "content": ""})
        try:
            while isinstance(event, str):
                yield made.chunk({"content": event})
                event = await anext(events)
            yield made.last_chunks(event, include_usage=asked.include_usage)
        except Exception as error:  # the status is sent; what is left is to say it in the stream
            yield completion.event(completion.error(_unexpected(error)))


class _DisconnectedError(Exception):
    """The client has closed the connection."""


async def _unless_disconnected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The work's result; the work ends when the client goes."""

    async def disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(disconnected())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise _DisconnectedError
    finally:
        working.cancel()
        leaving.cancel()


def _json(value: dict[str, Any], status: int = 200) -> Response:
    return Response(orjson.dumps(value), status_code=status, media_type="application/json")


def _refusal(refused: RefusedRequest) -> Response:
    return _json(completion.error(refused), refused.status)


async def _no_such_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path} is not served; POST /v1/chat/completions is"
    return _refusal(RefusedRequest(what, status=error.status_code))


def _unexpected(error: Exception) -> RefusedRequest:
    line = str(error).strip().split("\n")[0][:300]
    what = f"unexpected {type(error).__name__}: {line}"
    sys.stderr.write(what + "\n")
    return RefusedRequest(what, status=500)


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{name}}</title>
<style>
:root { color-scheme: light dark; }
body { margin: 3rem auto; max-width: 44rem; padding: 0 1rem; font: 16px/1.6 system-ui, sans-serif; }
pre { overflow-x: auto; padding: .8rem 1rem; border: 1px solid #8884; border-radius: 8px; }
</style>
<h1>{{name}}</h1>
<p>A fine-tuned model, served by <code>lorawright chat --serve</code> to OpenAI clients of this
machine. The base URL is <code>{{address}}v1</code>; any API key will do. Ctrl-C in the terminal
ends it.</p>
<pre>curl {{address}}v1/chat/completions -H 'Content-Type: application/json' \\
  -d '{"messages": [{"role": "user", "content": "Who are you?"}]}'</pre>
<p>Also: <a href="v1/models">v1/models</a>, <a href="health">health</a>.</p>
</html>
"""
