"""What runs next and together, with time passed in; and the thread that runs it."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.batching import Batch, Batcher, BatchLimits, Schedule

LIMITS = BatchLimits(max_batch=4, max_delay_s=1.0)


def schedule(*models: str, ageing_s: float = 10.0) -> Schedule[str]:
    return Schedule(dict.fromkeys(models or ("m",), LIMITS), ageing_s=ageing_s)


def test_a_full_batch_runs_at_once() -> None:
    plan = schedule()
    for number in range(5):
        plan.add(f"p{number}", model="m", priority=0, now_s=0)
    batch = plan.next_batch(0)
    assert batch is not None
    assert batch.items == ("p0", "p1", "p2", "p3")
    assert plan.next_batch(0) is None
    assert plan.wait_s(0.25) == pytest.approx(0.75)


def test_a_lonely_picture_runs_at_its_deadline() -> None:
    plan = schedule()
    plan.add("p", model="m", priority=0, now_s=5)
    assert plan.next_batch(5.9) is None
    assert plan.next_batch(6.0) == Batch(model="m", items=("p",))
    assert plan.wait_s(6.0) is None


def test_nobody_waits_when_nothing_more_is_coming() -> None:
    plan = schedule()
    plan.add("p", model="m", priority=0, now_s=5)
    assert plan.wait_s(5, more_coming=False) == 0
    assert plan.next_batch(5, more_coming=False) is not None


def test_the_urgent_picture_goes_first() -> None:
    plan = schedule()
    for number in range(4):
        plan.add(f"p{number}", model="m", priority=0, now_s=0)
    plan.add("urgent", model="m", priority=1, now_s=0.5)
    batch = plan.next_batch(0.5)
    assert batch is not None
    assert batch.items == ("urgent", "p0", "p1", "p2")


def test_waiting_makes_up_for_priority() -> None:
    plan = schedule(ageing_s=10)
    plan.add("old", model="m", priority=0, now_s=0)
    plan.add("urgent soon after", model="m", priority=1, now_s=9)
    plan.add("urgent too late", model="m", priority=1, now_s=11)
    batch = plan.next_batch(20)
    assert batch is not None
    assert batch.items == ("urgent soon after", "old", "urgent too late")


def test_a_picture_that_asks_to_run_alone_runs_alone() -> None:
    plan = schedule()
    plan.add("alone", model="m", priority=0, now_s=0, max_batch=1)
    plan.add("p1", model="m", priority=0, now_s=0)
    plan.add("p2", model="m", priority=0, now_s=0)
    first = plan.next_batch(0)
    assert first is not None
    assert first.items == ("alone",)
    second = plan.next_batch(1)
    assert second is not None
    assert second.items == ("p1", "p2")


def test_a_lonely_one_in_the_middle_is_not_taken_along() -> None:
    plan = schedule()
    plan.add("p1", model="m", priority=0, now_s=0)
    plan.add("alone", model="m", priority=0, now_s=0.1, max_batch=1)
    plan.add("p2", model="m", priority=0, now_s=0.2)
    runs = [batch.items for _ in range(3) if (batch := plan.next_batch(9))]
    assert runs == [("p1",), ("alone",), ("p2",)]


def test_the_model_with_the_most_urgent_picture_is_served_first() -> None:
    plan = schedule("a", "b")
    plan.add("a1", model="a", priority=0, now_s=0)
    plan.add("b1", model="b", priority=5, now_s=0.5)
    batch = plan.next_batch(2)
    assert batch is not None
    assert batch.model == "b"


def test_an_unknown_model_is_an_error() -> None:
    with pytest.raises(KeyError):
        schedule().add("p", model="x", priority=0, now_s=0)


@settings(max_examples=80, deadline=None)
@given(
    arrivals=st.lists(
        st.tuples(st.floats(0, 20), st.integers(0, 3), st.sampled_from(["a", "b"]), st.sampled_from([None, 1, 2, 3])),
        max_size=40,
    ),
    duration=st.floats(0.01, 2),
)
def test_every_picture_runs_once_within_bounds_and_none_starves(
    arrivals: list[tuple[float, int, str, int | None]], duration: float
) -> None:
    """A simulated network that takes `duration` for every batch, whatever its size."""
    ageing_s = 5.0
    plan = Schedule[int]({"a": LIMITS, "b": BatchLimits(max_batch=2, max_delay_s=0.1)}, ageing_s=ageing_s)
    coming = sorted(enumerate(arrivals), key=lambda entry: entry[1][0])
    started: dict[int, float] = {}
    now = 0.0
    while coming or len(plan):
        while coming and coming[0][1][0] <= now:
            number, (at, priority, model, bound) = coming.pop(0)
            plan.add(number, model=model, priority=priority, now_s=at, max_batch=bound)
        batch = plan.next_batch(now)
        if batch is None:
            wait = plan.wait_s(now)
            steps = [now + wait + 1e-6] if wait is not None else []
            now = min(steps + [entry[1][0] for entry in coming[:1]])
            continue
        bounds = [arrivals[number][3] or 4 for number in batch.items]
        assert len(batch.items) <= min([*bounds, 4 if batch.model == "a" else 2])
        assert {arrivals[number][2] for number in batch.items} == {batch.model}
        assert not started.keys() & set(batch.items)
        started.update(dict.fromkeys(batch.items, now))
        now += duration
    assert started.keys() == set(range(len(arrivals)))
    for number, (at, priority, _, _) in enumerate(arrivals):
        # Only what came before it, or is more urgent and came within the ageing time, may go first.
        ahead = sum(1 for other_at, other, *_ in arrivals if other_at <= at + max(other - priority, 0) * ageing_s)
        assert started[number] <= at + LIMITS.max_delay_s + duration * (ahead + 1) + 1e-3


def test_the_batcher_runs_what_it_is_given_and_returns_the_rest_on_closing() -> None:
    gate, ran = threading.Event(), []

    def run(batch: Batch[str]) -> None:
        ran.extend(batch.items)
        gate.wait(30)

    batcher = Batcher(schedule(), run, more_coming=lambda: False)
    batcher.put(["first"], model="m", priority=0)
    while not ran:
        threading.Event().wait(0.01)
    batcher.put(["never"], model="m", priority=0)
    threading.Timer(0.1, gate.set).start()
    left = batcher.close()
    assert set(ran) | set(left) == {"first", "never"}
    assert ran[0] == "first"
