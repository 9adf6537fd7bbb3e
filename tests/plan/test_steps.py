"""The plan: which chats make which step depends on the config alone, the layout divides a step."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorawright.plan.steps import Order, Plan, Step

GOLDEN = [(1, 8, 5, 3, 7, 9, 4, 0, 6, 2), (9, 5, 8, 7, 6, 4, 0, 3, 1, 2)]
quick = settings(max_examples=100, derandomize=True, deadline=None)
lengths = st.lists(st.integers(1, 300), min_size=1, max_size=40).map(np.asarray)


def plan(num_tokens_N: npt.NDArray[np.int64] | int, **options: Any) -> Plan:
    if isinstance(num_tokens_N, int):
        num_tokens_N = np.arange(num_tokens_N) % 7 + 3
    given_by_default = {"batch_size": 4, "num_epochs": 2, "seed": 42, "tokens_per_pass": 20}
    return Plan(num_tokens_N, num_tokens_N // 2, **{**given_by_default, **options})


def chats(made: Plan) -> list[tuple[int, ...]]:
    return [step.sequences for step in made]


def test_golden_order() -> None:
    """The order of chats is a promise to every run that is resumed with a newer version."""
    assert chats(plan(10, batch_size=10)) == GOLDEN
    assert chats(plan(10))[:3] == [GOLDEN[0][:4], GOLDEN[0][4:8], GOLDEN[0][8:]]


@quick
@given(lengths, st.integers(1, 50), st.integers(1, 4), st.integers(0, 2**40))
def test_every_chat_once_an_epoch(
    num_tokens_N: npt.NDArray[np.int64], batch_size: int, num_epochs: int, seed: int
) -> None:
    made = plan(num_tokens_N, batch_size=batch_size, num_epochs=num_epochs, seed=seed)
    steps = list(made)
    num_chats, per_epoch = len(num_tokens_N), -(-len(num_tokens_N) // batch_size)
    assert len(made) == len(steps) == per_epoch * num_epochs
    assert [step.number for step in steps] == list(range(len(steps)))
    for start in range(0, len(steps), per_epoch):
        epoch = [step.sequences for step in steps[start : start + per_epoch]]
        assert sorted(chat for batch in epoch for chat in batch) == list(range(num_chats))
        assert {len(batch) for batch in epoch[:-1]} <= {batch_size}
        assert len(epoch[-1]) == num_chats - batch_size * (per_epoch - 1)


@quick
@given(lengths, st.integers(1, 10))
def test_steps_count_their_tokens(num_tokens_N: npt.NDArray[np.int64], batch_size: int) -> None:
    for step in plan(num_tokens_N, batch_size=batch_size):
        assert step.num_tokens == sum(int(num_tokens_N[chat]) for chat in step.sequences)
        assert step.num_trained_tokens == sum(int(num_tokens_N[c]) // 2 for c in step.sequences)


def test_order_depends_on_seed_and_epoch_only() -> None:
    flat = sum(chats(plan(30)), ())
    assert sum(chats(plan(30, batch_size=7)), ()) == flat
    assert sum(chats(plan(30, tokens_per_pass=1000, num_ranks=3)), ()) == flat
    assert sum(chats(plan(np.full(30, 500))), ()) == flat
    assert sum(chats(plan(30, num_epochs=1)), ()) == flat[:30]
    assert sum(chats(plan(30, seed=43)), ())[:30] != flat[:30]
    assert flat[30:] != flat[:30]


def test_a_step_is_found_without_those_before() -> None:
    steps = list(plan(30, num_epochs=3))
    assert [plan(30, num_epochs=3)[number] for number in (20, 3, 11)] == [
        steps[20],
        steps[3],
        steps[11],
    ]
    for number in (-1, len(steps)):
        with pytest.raises(IndexError):
            plan(30, num_epochs=3)[number]


def test_max_steps_ends_the_plan_and_changes_no_step() -> None:
    assert list(plan(30, max_steps=5)) == list(plan(30))[:5]
    assert list(plan(30, max_steps=500)) == list(plan(30))


def check_layout(
    step: Step, num_tokens_N: npt.NDArray[np.int64], capacity: int, ranks: int
) -> None:
    assert len(step.passes) == ranks
    assert len({len(passes) for passes in step.passes}) == 1
    held = [chat for passes in step.passes for one in passes for chat in one.chats]
    assert sorted(held) == sorted(step.sequences)
    for one in (one for passes in step.passes for one in passes):
        assert len(one.chats) <= 1 or one.num_tokens <= capacity
    work = [sum(one.num_tokens for one in passes) for passes in step.passes]
    assert max(work) - min(work) <= int(num_tokens_N[list(step.sequences)].max())


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8])
@quick
@given(lengths, st.integers(1, 20), st.integers(1, 1000))
def test_passes_are_a_partition_of_the_step(
    num_ranks: int, num_tokens_N: npt.NDArray[np.int64], batch_size: int, capacity: int
) -> None:
    options = {"batch_size": batch_size, "tokens_per_pass": capacity, "num_ranks": num_ranks}
    for step in plan(num_tokens_N, num_epochs=1, **options):
        check_layout(step, num_tokens_N, capacity, num_ranks)


@quick
@given(lengths, st.integers(1, 20), st.integers(1, 1000), st.integers(1, 8))
def test_layout_changes_no_step(
    num_tokens_N: npt.NDArray[np.int64], batch_size: int, capacity: int, num_ranks: int
) -> None:
    one = plan(num_tokens_N, batch_size=batch_size, tokens_per_pass=300)
    other = plan(num_tokens_N, batch_size=batch_size, tokens_per_pass=capacity, num_ranks=num_ranks)
    assert one.sha256 == other.sha256
    for a, b in zip(one, other, strict=True):
        assert (a.sequences, a.num_tokens, a.num_trained_tokens) == (
            b.sequences,
            b.num_tokens,
            b.num_trained_tokens,
        )


@pytest.mark.parametrize(
    "change",
    [{"seed": 43}, {"batch_size": 5}, {"num_epochs": 3}, {"max_steps": 7}],
    ids=lambda change: next(iter(change)),
)
def test_sha256_changes_with_the_trajectory(change: dict[str, int]) -> None:
    assert plan(30, **change).sha256 != plan(30).sha256


def test_sha256_changes_with_the_number_of_chats() -> None:
    assert plan(31).sha256 != plan(30).sha256


def test_sha256_stays_with_the_layout() -> None:
    same = {
        plan(30).sha256,
        plan(30, tokens_per_pass=10_000).sha256,
        plan(30, num_ranks=8).sha256,
        plan(30, max_steps=1000).sha256,
        plan(30, num_epochs=4, max_steps=16).sha256,
    }
    assert len(same) == 1


@quick
@given(lengths)
def test_evaluation_sees_every_chat_once(num_tokens_N: npt.NDArray[np.int64]) -> None:
    order = [chat for step in plan(num_tokens_N).evaluation() for chat in step.sequences]
    assert sorted(order) == list(range(len(num_tokens_N)))
    sizes = [int(num_tokens_N[chat]) for chat in order]
    assert sizes == sorted(sizes, reverse=True)


def test_grouped_order_brings_equal_beginnings_together() -> None:
    """Three families of 40 chats: few steps hold two of them, and each epoch has its own order."""
    generator = np.random.default_rng(0)
    family_N = generator.permutation(np.repeat(np.arange(3), 40))
    bodies = generator.integers(10, 99, (120, 5))
    heads = [np.full(70, family) for family in family_N]
    ids = [np.concatenate(parts) for parts in zip(heads, bodies, strict=True)]
    made = plan(120, batch_size=8, ids=ids.__getitem__, order=Order.GROUPED)
    mixed = [len({int(family_N[chat]) for chat in made.chats(number)}) for number in range(15)]
    assert sum(count > 1 for count in mixed) <= 2
    first = np.concatenate([made.chats(number) for number in range(15)])
    second = np.concatenate([made.chats(number) for number in range(15, 30)])
    assert sorted(first) == sorted(second) == list(range(120))
    assert first.tolist() != second.tolist()
    assert made.sha256 != plan(120, batch_size=8).sha256


@quick
@given(st.lists(st.integers(1, 4), min_size=1, max_size=20), st.integers(1, 6), st.integers(1, 2))
def test_sequences_of_a_chat_stay_together(
    num_sequences: list[int], batch_size: int, num_epochs: int
) -> None:
    """Batches count chats; the chats' order is that of a set with a sequence each."""
    starts_C = np.cumsum([0, *num_sequences[:-1]])
    made = plan(sum(num_sequences), starts_C=starts_C, batch_size=batch_size, num_epochs=num_epochs)
    plain = plan(len(num_sequences), batch_size=batch_size, num_epochs=num_epochs)
    assert len(made) == len(plain) and made.sha256 == plain.sha256
    for step, same in zip(made, plain, strict=True):
        own = [
            list(range(starts_C[chat], starts_C[chat] + num_sequences[chat]))
            for chat in same.sequences
        ]
        assert list(step.sequences) == [row for rows in own for row in rows]
        assert step.num_tokens == sum(int(made.num_tokens_N[row]) for row in step.sequences)
