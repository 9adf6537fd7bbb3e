"""Encoded chats on disk: one memory-mapped Arrow file a set, so that a million cost no memory.

input_ids: list<int32>   spans: list<int32> (start, end, start, end, …)   file: string   line: int64
sequence: int32          num_sequences: int32

A row is a sequence; the sequences of a chat stand together, in order.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lorawright.types import EncodedChat, Split

SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.int32())),
        ("spans", pa.list_(pa.int32())),
        ("file", pa.string()),
        ("line", pa.int64()),
        ("sequence", pa.int32()),
        ("num_sequences", pa.int32()),
    ]
)
ROWS_PER_BATCH = 1000


class Writer:
    """Appends encoded chats to an Arrow stream file; use as a context manager."""

    def __init__(self, path: Path) -> None:
        self._sink = pa.OSFile(str(path), "wb")
        self._stream = pa.ipc.new_stream(self._sink, SCHEMA)
        self._rows: list[EncodedChat] = []

    def append(self, chat: EncodedChat) -> None:
        self._rows.append(chat)
        if len(self._rows) >= ROWS_PER_BATCH:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        edges = [list(chain.from_iterable(chat.spans)) for chat in self._rows]
        arrays = [
            _int_lists([chat.ids for chat in self._rows]),
            _int_lists(edges),
            pa.array([chat.file for chat in self._rows], pa.string()),
            pa.array([chat.line for chat in self._rows], pa.int64()),
            pa.array([chat.sequence for chat in self._rows], pa.int32()),
            pa.array([chat.num_sequences for chat in self._rows], pa.int32()),
        ]
        self._stream.write_batch(pa.record_batch(arrays, schema=SCHEMA))
        self._rows = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._flush()
        self._stream.close()
        self._sink.close()


def _int_lists(lists: Sequence[Sequence[int]]) -> pa.ListArray:
    """By way of two flat arrays: a third of the time of `pa.array` on lists."""
    offsets = array("i", accumulate(map(len, lists), initial=0))
    values = array("i", chain.from_iterable(lists))
    return pa.ListArray.from_arrays(
        pa.array(np.frombuffer(offsets, np.int32)), pa.array(np.frombuffer(values, np.int32))
    )


class ChatStore:
    """Reads what a `Writer` wrote, memory-mapped.

    Attributes:
        path: The Arrow file; `datasets.Dataset.from_file` reads it too.
        num_tokens_N: Tokens of each of the N sequences.
        num_trained_N: Trained tokens of each.
        starts_C: The first sequence of each of the C chats.
    """

    def __init__(self, path: Path, split: Split) -> None:
        self.path = path
        self.split = split
        self._table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
        self.num_tokens_N = self._per_sequence(self._num_tokens)
        self.num_trained_N = self._per_sequence(self._num_trained)
        numbers_N = self._per_sequence(lambda batch: np.asarray(batch.column("sequence"), np.int64))
        self.starts_C = np.flatnonzero(numbers_N == 0)

    @property
    def num_chats(self) -> int:
        return len(self.starts_C)

    def _per_sequence(
        self, count: Callable[[pa.RecordBatch], npt.NDArray[np.int64]]
    ) -> npt.NDArray[np.int64]:
        parts = [count(batch) for batch in self._table.to_batches()]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    @staticmethod
    def _num_tokens(batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
        offsets = np.asarray(batch.column("input_ids").offsets)
        return np.diff(offsets).astype(np.int64)

    @staticmethod
    def _num_trained(batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
        column = batch.column("spans")
        edges = np.asarray(column.flatten(), np.int64)
        widths = np.concatenate([[0], np.cumsum(edges[1::2] - edges[::2])])
        offsets = np.asarray(column.offsets) - column.offsets[0].as_py()
        widths_N: npt.NDArray[np.int64] = np.diff(widths[offsets // 2]).astype(np.int64)
        return widths_N

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def __getitem__(self, index: int) -> EncodedChat:
        edges = self._table["spans"][index].as_py()
        return EncodedChat(
            ids=tuple(self._table["input_ids"][index].as_py()),
            spans=tuple(zip(edges[::2], edges[1::2], strict=True)),
            file=self._table["file"][index].as_py(),
            line=self._table["line"][index].as_py(),
            split=self.split,
            sequence=self._table["sequence"][index].as_py(),
            num_sequences=self._table["num_sequences"][index].as_py(),
        )

    def __iter__(self) -> Iterator[EncodedChat]:
        return (self[index] for index in range(len(self)))

    def ids(self, index: int) -> npt.NDArray[np.int32]:
        """Token ids of one sequence, without a copy of the file."""
        return np.asarray(self._table["input_ids"][index].values)

    def edges(self, index: int) -> npt.NDArray[np.int32]:
        """Its spans, flat: start, end, start, end…"""
        return np.asarray(self._table["spans"][index].values)
