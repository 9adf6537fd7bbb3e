"""One model, one answer at a time: requests wait for their turn, and who has gone loses it.

A worker thread answers; the requests' coroutines listen. Whichever way a coroutine ends (answered,
client gone, server closing), it says so, and the model stops at the next token.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from threading import Event

import jinja2

from lorawright.inference.gate import Answer, Gate
from lorawright.inference.generate import Sampling, Talker
from lorawright.inference.request import Asked, Refused

MOST_WAITING = 256  # requests; more are told to come back
LONGEST_ANSWER_SECONDS = 600.0  # then an answer ends as if it had reached its limit of tokens

Put = Callable[[str | Answer | Exception], None]


class Turns:
    """The only way to the model.

    Args:
        talker: Answers.
    """

    def __init__(self, talker: Talker) -> None:
        self._talker = talker
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="answers")
        self._closed = Event()
        self._num_waiting = 0

    def close(self) -> None:
        """Ends the answer that is being given, and gives none after it."""
        self._closed.set()
        self._worker.shutdown(wait=False, cancel_futures=True)

    async def answer(self, asked: Asked) -> AsyncGenerator[str | Answer]:
        """Pieces of an answer, then how it ended; closing the generator frees the model.

        Raises:
            Refused: Too many wait, the template refuses the messages, or the chat is too long.
        """
        if self._num_waiting >= MOST_WAITING:
            raise Refused("too many requests are waiting; try again later", status=429)
        if self._closed.is_set():
            raise Refused("the server is closing", status=503)
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[str | Answer | Exception] = asyncio.Queue()
        gone = Event()

        def put(event: str | Answer | Exception) -> None:
            with suppress(RuntimeError):  # the loop has ended; nobody listens
                loop.call_soon_threadsafe(events.put_nowait, event)

        self._num_waiting += 1
        turn = self._worker.submit(self._answer, asked, gone, put)
        try:
            while True:
                event = await events.get()
                if isinstance(event, Exception):
                    raise event
                yield event
                if isinstance(event, Answer):
                    return
        finally:
            gone.set()
            turn.cancel()
            self._num_waiting -= 1

    def _answer(self, asked: Asked, gone: Event, put: Put) -> None:
        """One turn, in the worker's thread."""
        deadline = time.monotonic() + LONGEST_ANSWER_SECONDS
        gate = Gate(asked.stops, calls=asked.tools is not None)

        def should_stop() -> bool:
            late = time.monotonic() > deadline
            return gate.stopped or gone.is_set() or self._closed.is_set() or late

        if should_stop():
            return
        try:
            prompt = self._talker.prompt(asked.messages, asked.tools)
            sampling = self._fitting(asked, prompt["input_ids"].shape[1])
            stream = self._talker.continue_prompt(prompt, sampling, should_stop=should_stop)
            while True:
                try:
                    shown = gate.push(next(stream))
                except StopIteration as end:
                    put(gate.finish(end.value))
                    return
                if shown:
                    put(shown)
        except jinja2.TemplateError as error:
            put(Refused(f"the chat template refuses these messages: {error}", param="messages"))
        except Exception as error:  # handed to the request's coroutine, which raises it
            put(error)

    def _fitting(self, asked: Asked, num_prompt: int) -> Sampling:
        """The sampling, its limit no higher than what the model has room for."""
        longest = self._talker.longest_tokens
        if longest is None:
            return asked.sampling
        room, wanted = longest - num_prompt, asked.sampling.max_new_tokens
        if room < 1:
            raise Refused(
                f"the messages have {num_prompt} tokens, the model reads at most {longest}",
                param="messages",
                code="context_length_exceeded",
            )
        if asked.limit_asked and wanted > room:
            raise Refused(
                f"`max_tokens` is {wanted}, but after the {num_prompt} tokens of the messages the "
                f"model has room for {room}",
                param="max_tokens",
                code="context_length_exceeded",
            )
        return replace(asked.sampling, max_new_tokens=min(wanted, room))
