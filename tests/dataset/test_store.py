"""Encoded chats on disk: what is written is read, from a memory map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from lorawright.dataset.store import ROWS_PER_BATCH, ChatStore, Writer
from lorawright.types import EncodedChat, Span, Split


def write(path: Path, chats: list[EncodedChat], split: Split = Split.TRAIN) -> ChatStore:
    with Writer(path) as writer:
        for chat in chats:
            writer.append(chat)
    return ChatStore(path, split)


def chat(number: int) -> EncodedChat:
    """Of 3 to 12 tokens and one to three spans."""
    ids = tuple(range(number, number + 3 + number % 10))
    spans: list[Span] = [(1, 2), (4, 6), (8, 9)]
    kept = tuple(span for span in spans if span[1] <= len(ids))
    return EncodedChat(ids, kept, f"数据/{number % 3}.jsonl", number + 1)


@st.composite
def chats(draw: st.DrawFn) -> EncodedChat:
    ids = draw(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=30))
    edges = draw(st.sets(st.integers(0, len(ids)), max_size=8).map(sorted))
    spans = tuple(zip(edges[:-1:2], edges[1::2], strict=False))
    name = draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=5))
    return EncodedChat(tuple(ids), spans, name, draw(st.integers(1, 2**40)))


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.lists(chats(), max_size=6))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list[EncodedChat]) -> None:
    store = write(tmp_path_factory.mktemp("store") / "train.arrow", rows)
    assert list(store) == rows and len(store) == len(rows)
    assert store.num_tokens_N.tolist() == [len(row.ids) for row in rows]
    assert store.num_trained_N.tolist() == [row.num_trained_tokens for row in rows]


@pytest.mark.parametrize("extra", [-1, 0, 1, ROWS_PER_BATCH + 7])
def test_spans_of_many(tmp_path: Path, extra: int) -> None:
    rows = [chat(number) for number in range(ROWS_PER_BATCH + extra)]
    store = write(tmp_path / "train.arrow", rows)
    assert list(store) == rows
    assert store.num_trained_N.tolist() == [row.num_trained_tokens for row in rows]
    for number in (0, len(rows) // 2, len(rows) - 1):
        assert store.ids(number).tolist() == list(rows[number].ids)
        assert store.edges(number).reshape(-1, 2).tolist() == [list(s) for s in rows[number].spans]


def test_zero_rows(tmp_path: Path) -> None:
    store = write(tmp_path / "eval.arrow", [], Split.EVAL)
    assert len(store) == 0 and list(store) == []
    for counts in (store.num_tokens_N, store.num_trained_N):
        assert counts.shape == (0,) and counts.dtype == np.int64
    assert store.num_tokens_N.sum() == 0


def test_split_is_the_stores(tmp_path: Path) -> None:
    assert write(tmp_path / "eval.arrow", [chat(1)], Split.EVAL)[0].split is Split.EVAL


def test_index_out_of_range(tmp_path: Path) -> None:
    store = write(tmp_path / "train.arrow", [chat(1)])
    with pytest.raises(IndexError):
        store[1]


def test_ids_are_memory_mapped(tmp_path: Path) -> None:
    rows = [EncodedChat(tuple(range(1000)), ((1, 1000),), "a", n) for n in range(2000)]
    path = tmp_path / "train.arrow"
    write(path, rows)
    before = pa.total_allocated_bytes()
    store = ChatStore(path, Split.TRAIN)
    ids = store.ids(1999)
    assert pa.total_allocated_bytes() - before < path.stat().st_size / 100
    assert ids.dtype == np.int32 and not ids.flags.owndata and not ids.flags.writeable


def test_datasets_reads_it_too(tmp_path: Path) -> None:
    rows = [chat(number) for number in range(20)]
    write(tmp_path / "train.arrow", rows)
    dataset = Dataset.from_file(str(tmp_path / "train.arrow"))
    assert [tuple(ids) for ids in dataset["input_ids"]] == [row.ids for row in rows]
