"""An OpenAI-compatible chat endpoint for one run, on loopback.

    request.py   a body → what is asked, read by the reader of training rows; faults with addresses
    turns.py     one model, one answer at a time; whoever has gone is not answered
    reply.py     an answer's text → OpenAI's objects: whole, in chunks, calls of tools, errors
    app.py       hosts, origins, limits, routes

`serve` runs it until Ctrl-C. Needs `lorawright[serve]`.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING

from lorawright.errors import ConfigError, LorawrightError

if TYPE_CHECKING:
    from lorawright.inference.generate import Sampling, Talker

HOST = "127.0.0.1"  # for programs of this machine; nobody else can ask
PACKAGES = ("starlette", "uvicorn")
LONGEST_GOODBYE_SECONDS = 1  # what an open connection gets after Ctrl-C


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


def serve(talker: Talker, name: str, bound: socket.socket, sampling: Sampling) -> None:
    """Answers requests until Ctrl-C.

    Args:
        talker: Answers with its adapter.
        name: What `/v1/models` lists.
        bound: From `bind`.
        sampling: For what a request leaves open.
    """
    import uvicorn

    from lorawright.inference.app import application
    from lorawright.inference.turns import Turns

    turns = Turns(talker)

    class Server(uvicorn.Server):
        """Ends the answer that is being given, too."""

        def handle_exit(self, sig: int, frame: object) -> None:
            turns.close()
            super().handle_exit(sig, None)

    config = uvicorn.Config(
        application(turns, name, sampling),
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ws="none",
        lifespan="off",
        timeout_graceful_shutdown=LONGEST_GOODBYE_SECONDS,
    )
    with bound, suppress(KeyboardInterrupt):  # uvicorn raises it again when all is closed
        Server(config).run(sockets=[bound])
