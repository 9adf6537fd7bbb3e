"""A model and a port → an OpenAI-compatible chat endpoint on loopback, until Ctrl-C.

    app.py            hosts, origins, limits, routes
    chat_request.py   a body → the request, read by the reader of training rows
    request_queue.py  one model, one answer at a time
    stream_filter.py  what of an answer may be sent while it is generated
    completion.py     an answer → OpenAI's objects: whole, in chunks, calls of tools, errors

Needs `lorawright[serve]`.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING

from lorawright.errors import ConfigError, LorawrightError

if TYPE_CHECKING:
    from lorawright.inference.generate import ChatModel, Sampling

HOST = "127.0.0.1"  # for programs of this machine; nobody else can ask
PACKAGES = ("starlette", "uvicorn")
SHUTDOWN_SECONDS = 1  # what an open connection gets after Ctrl-C


def refuse_missing_packages() -> None:
    """Raises ConfigError if a package of `lorawright[serve]` is not installed."""
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise ConfigError(
            f"needs {', '.join(missing)}, which is not installed",
            where="--serve",
            hint="pip install 'lorawright[serve]'",
        )


def bind(port: int) -> socket.socket:
    """The port, taken before a model is loaded; 0 takes a free one.

    Raises:
        LorawrightError: Another program has it, or this one may not.
    """
    bound = socket.socket()
    if os.name != "nt":  # there it would let two programs have one port
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((HOST, port))
        bound.listen(128)
    except OSError as error:
        bound.close()
        raise LorawrightError(
            f"cannot be used: {error.strerror}", where=f"{HOST}:{port}", hint="`--port N`"
        ) from None
    return bound


def serve(model: ChatModel, name: str, bound: socket.socket, sampling: Sampling) -> None:
    """Answers requests until Ctrl-C.

    Args:
        model: Answers with its adapter.
        name: What `/v1/models` lists.
        bound: From `bind`.
        sampling: For what a request leaves open.
    """
    import uvicorn

    from lorawright.inference.app import application
    from lorawright.inference.request_queue import RequestQueue

    queue = RequestQueue(model)

    class Server(uvicorn.Server):
        """Ends the answer that is being given, too."""

        def handle_exit(self, sig: int, frame: object) -> None:
            queue.close()
            super().handle_exit(sig, None)

    config = uvicorn.Config(
        application(queue, name, sampling),
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ws="none",
        lifespan="off",
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    with bound, suppress(KeyboardInterrupt):  # uvicorn raises it again when all is closed
        Server(config).run(sockets=[bound])
