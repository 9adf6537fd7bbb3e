"""Chats encoded by several processes where there are many of them, in the order of the rows.

    rows ─► batches ─┬─► worker: render, tokenize, prove ─┬─► the same chats and problems
                     └─► worker …                        ─┘   as one process gives, counted alike

A worker is a Python of its own that is told everything by its standard input (`python -m
lorawright.dataset.pool`): nothing is forked, the caller's script is not imported again, and a
worker whose parent is gone reads the end of its input and ends too. `ProcessPoolExecutor` would
import the caller's script in every worker: a script without `if __name__ == "__main__"` would fail.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import queue
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import IO, Any

from lorawright.errors import DataError, LorawrightError, TemplateError
from lorawright.masks.byte_level_bpe import ByteLevelBpe
from lorawright.masks.encode import BATCH, Encoder, MaskCounts
from lorawright.types import Conversation, EncodedChat, Message, Problem

START_AFTER = 10_000  # rows: a worker takes a second of one core to start
MOST_WORKERS = 4  # then reading is the slowest part; 0.2 GB of memory each
SIZE_BYTES = 8

Row = Conversation | Problem
Result = EncodedChat | Problem


def encode(
    encoder: Encoder, rows: Iterable[Row], *, start_after: int = START_AFTER
) -> Iterator[Result]:
    """What `encoder.run(rows)` yields, and the same counts; by workers beyond the first rows.

    Templates with generation tags stay in this process: their first disagreement ends their use,
    which is a matter of order.

    Raises:
        TemplateError: As `encoder.run`.
        DataError: A worker has ended.
    """
    rows = iter(rows)
    num_workers = min(_num_cores(), MOST_WORKERS)
    if encoder.tags is not None or num_workers < 2:
        yield from encoder.run(rows)
        return
    yield from encoder.run(itertools.islice(rows, start_after))
    first = list(itertools.islice(rows, BATCH))
    if not first:
        return
    batches = itertools.chain([first], iter(lambda: list(itertools.islice(rows, BATCH)), []))
    with _Pool(encoder, num_workers) as pool:
        waiting: deque[Future[_Answer]] = deque()
        for batch in batches:
            waiting.append(pool.submit(batch))
            if len(waiting) > 2 * num_workers:
                yield from _taken(encoder, waiting.popleft())
        while waiting:
            yield from _taken(encoder, waiting.popleft())


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class _Answer:
    """A worker's: packed results of one batch and what it counted, or the error that ended it."""

    results: list[Any]
    counts: MaskCounts
    error: tuple[str, str | None, str | None] | None = None


def _taken(encoder: Encoder, future: Future[_Answer]) -> Iterator[Result]:
    answer = future.result()
    if answer.error is not None:
        what, where, hint = answer.error
        raise TemplateError(what, where=where, hint=hint)
    encoder.counts.add(answer.counts)
    for item in answer.results:
        yield item if isinstance(item, Problem) else EncodedChat(*item)


class _Pool:
    """Workers, and a thread for each that hands it a batch and waits for the answer."""

    def __init__(self, encoder: Encoder, num_workers: int) -> None:
        plain = replace(encoder.tokenizer, bpe=None)
        job = pickle.dumps((plain, encoder.settings))
        command = [sys.executable, "-m", "lorawright.dataset.pool"]
        environment = {**os.environ, "RAYON_NUM_THREADS": "1"}  # the processes are the threads
        self._processes = [
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the parent, who ends them
            )
            for _ in range(num_workers)
        ]
        self._free: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(num_workers)
        for process in self._processes:
            self._threads.submit(self._begin, process, job)

    def _begin(self, process: subprocess.Popen[bytes], job: bytes) -> None:
        with contextlib.suppress(OSError):  # it is gone: whoever gives it a batch says so
            _write(process.stdin, job)
        self._free.put(process)

    def submit(self, batch: list[Row]) -> Future[_Answer]:
        return self._threads.submit(self._ask, [_packed_row(row) for row in batch])

    def _ask(self, batch: list[Any]) -> _Answer:
        process = self._free.get()
        try:
            _write(process.stdin, pickle.dumps(batch))
            answer = _read(process.stdout)
        except OSError:
            answer = None
        finally:
            self._free.put(process)
        if answer is None:
            raise DataError(
                f"a process that encodes chats has ended (exit code {process.wait()})",
                hint="its last words are above; the system ends processes when memory is short",
            )
        found = pickle.loads(answer)
        assert isinstance(found, _Answer)
        return found

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()  # it holds nothing that is not ours already
        self._threads.shutdown(wait=True, cancel_futures=True)
        for process in self._processes:
            process.communicate()


# Tuples: dataclasses take five times as long to pickle.
_conversation_fields = attrgetter(*(f.name for f in fields(Conversation)))
_message_fields = attrgetter(*(f.name for f in fields(Message)))
_encoded_fields = attrgetter(*(f.name for f in fields(EncodedChat)))


def _packed_row(row: Row) -> Any:
    if isinstance(row, Problem):
        return row
    _, *rest = _conversation_fields(row)
    return ([_message_fields(message) for message in row.messages], *rest)


def _row(packed: Any) -> Row:
    if isinstance(packed, Problem):
        return packed
    messages, *rest = packed
    return Conversation(tuple(Message(*message) for message in messages), *rest)


def _write(pipe: IO[bytes] | None, data: bytes) -> None:
    assert pipe is not None
    pipe.write(len(data).to_bytes(SIZE_BYTES, "little") + data)
    pipe.flush()


def _read(pipe: IO[bytes] | None) -> bytes | None:
    """One message; None at the end."""
    assert pipe is not None
    size = int.from_bytes(pipe.read(SIZE_BYTES), "little")
    data = pipe.read(size)
    return data if size and len(data) == size else None


def _answer(encoder: Encoder, batch: list[Any]) -> _Answer:
    encoder.counts = MaskCounts()
    try:
        results = list(encoder.run(map(_row, batch)))
    except LorawrightError as error:
        return _Answer([], encoder.counts, (error.what, error.where, error.hint))
    packed = [item if isinstance(item, Problem) else _encoded_fields(item) for item in results]
    return _Answer(packed, encoder.counts)


def main() -> None:
    """One worker: the tokenizer first, then batches until the input ends."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not stand among the answers
    job = _read(sys.stdin.buffer)
    if job is None:
        return
    tokenizer, settings = pickle.loads(job)
    tokenizer = replace(tokenizer, bpe=ByteLevelBpe.of(tokenizer.backend))
    encoder = Encoder(tokenizer, settings)
    while (batch := _read(sys.stdin.buffer)) is not None:
        _write(replies, pickle.dumps(_answer(encoder, pickle.loads(batch))))


if __name__ == "__main__":
    from lorawright.dataset import pool as workers

    workers.main()  # by its name: pickle looks classes up in the module that made them
