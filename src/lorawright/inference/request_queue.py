"""Requests → answers of one model, one request at a time; a request whose client left is dropped.

A worker thread generates; the requests' coroutines receive. Whichever way a coroutine ends
(answered, client disconnected, server closing), the model stops at the next token.
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

from lorawright.inference.chat_request import ChatRequest, RefusedRequest
from lorawright.inference.generate import ChatModel, Sampling
from lorawright.inference.stream_filter import Answer, StreamFilter

MOST_WAITING = 256  # requests; more are told to come back
LONGEST_ANSWER_SECONDS = 600.0  # then an answer ends as if it had reached its limit of tokens

Put = Callable[[str | Answer | Exception], None]


class RequestQueue:
    """The only way to the model.

    Args:
        model: Answers with its adapter.
    """

    def __init__(self, model: ChatModel) -> None:
        self._model = model
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="answers")
        self._closed = Event()
        self._num_waiting = 0

    def close(self) -> None:
        """Ends the answer that is being given, and gives none after it."""
        self._closed.set()
        self._worker.shutdown(wait=False, cancel_futures=True)

    async def answer(self, request: ChatRequest) -> AsyncGenerator[str | Answer]:
        """Pieces of an answer, then how it ended; closing the generator frees the model.

        Raises:
            RefusedRequest: Too many wait, the template refuses the messages, or they are too long.
        """
        if self._num_waiting >= MOST_WAITING:
            raise RefusedRequest("too many requests are waiting; try again later", status=429)
        if self._closed.is_set():
            raise RefusedRequest("the server is closing", status=503)
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[str | Answer | Exception] = asyncio.Queue()
        disconnected = Event()

        def put(event: str | Answer | Exception) -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(events.put_nowait, event)

        self._num_waiting += 1
        job = self._worker.submit(self._answer, request, disconnected, put)
        try:
            while True:
                event = await events.get()
                if isinstance(event, Exception):
                    raise event
                yield event
                if isinstance(event, Answer):
                    return
        finally:
            disconnected.set()
            job.cancel()
            self._num_waiting -= 1

    def _answer(self, request: ChatRequest, disconnected: Event, put: Put) -> None:
        """Answers one request, in the worker's thread."""
        deadline = time.monotonic() + LONGEST_ANSWER_SECONDS
        stream_filter = StreamFilter(request.stops, calls=request.tools is not None)

        def should_stop() -> bool:
            late = time.monotonic() > deadline
            return stream_filter.stopped or disconnected.is_set() or self._closed.is_set() or late

        if should_stop():
            return
        try:
            prompt = self._model.prompt(request.messages, request.tools, request.variables)
            sampling = self._limited(request, prompt["input_ids"].shape[1])
            stream = self._model.stream(prompt, sampling, should_stop=should_stop)
            while True:
                try:
                    shown = stream_filter.push(next(stream))
                except StopIteration as end:
                    put(stream_filter.finish(end.value))
                    return
                if shown:
                    put(shown)
        except jinja2.TemplateError as error:
            put(
                RefusedRequest(
                    f"the chat template refuses these messages: {error}", param="messages"
                )
            )
        except Exception as error:  # handed to the request's coroutine, which raises it
            put(error)

    def _limited(self, request: ChatRequest, num_prompt: int) -> Sampling:
        """The sampling, its limit no higher than what the context length leaves."""
        longest = self._model.context_length
        if longest is None:
            return request.sampling
        room, wanted = longest - num_prompt, request.sampling.max_new_tokens
        if room < 1:
            raise RefusedRequest(
                f"the messages have {num_prompt} tokens, the model reads at most {longest}",
                param="messages",
                code="context_length_exceeded",
            )
        if request.has_limit and wanted > room:
            raise RefusedRequest(
                f"`max_tokens` is {wanted}, but after the {num_prompt} tokens of the messages the "
                f"model has room for {room}",
                param="max_tokens",
                code="context_length_exceeded",
            )
        return replace(request.sampling, max_new_tokens=min(wanted, room))
