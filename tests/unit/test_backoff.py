"""The arithmetic of trying again, with the clock and the dice in the test's hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_node.delivery.backoff import Backoff, Breaker, Circuit

draws = st.floats(0, 1, exclude_max=True)


def test_delays_double_from_ten_seconds_to_a_quarter_of_an_hour() -> None:
    backoff = Backoff()
    assert [backoff.delay_s(n, draw=0.0) for n in (1, 2, 3, 7, 8, 100)] == [10, 20, 40, 640, 900, 900]


@settings(max_examples=200)
@given(attempt=st.integers(1, 10**9), draw=draws)
def test_a_delay_stays_between_three_quarters_and_the_whole(attempt: int, draw: float) -> None:
    whole_s = Backoff().delay_s(attempt, draw=0.0)
    assert 0.75 * whole_s <= Backoff().delay_s(attempt, draw=draw) <= whole_s <= 900


@settings(max_examples=100)
@given(attempt=st.integers(1, 50), draw=draws, asked_s=st.floats(0, 10**6))
def test_the_archives_own_wish_is_heeded_up_to_the_ceiling(attempt: int, draw: float, asked_s: float) -> None:
    delay_s = Backoff().delay_s(attempt, draw=draw, asked_s=asked_s)
    assert min(asked_s, 900) <= delay_s <= 900
    assert delay_s >= Backoff().delay_s(attempt, draw=draw)


def test_the_clock_can_be_compressed() -> None:
    assert Backoff(base_s=0.01, ceiling_s=0.05, jitter=0).delay_s(9, draw=0.5) == 0.05


@pytest.mark.parametrize(
    "values", [{"base_s": 0}, {"base_s": 10, "ceiling_s": 5}, {"jitter": 1.0}, {"jitter": -0.1}, {"base_s": -1}]
)
def test_a_backoff_that_cannot_work_is_not_made(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="backoff needs"):
        Backoff(**values)


def test_attempts_are_counted_from_one() -> None:
    with pytest.raises(ValueError, match="counted from 1"):
        Backoff().delay_s(0, draw=0.0)


def opened(breaker: Breaker, now_s: float) -> Breaker:
    for _ in range(breaker.threshold):
        breaker = breaker.failed(now_s, draw=0.0)
    return breaker


def test_a_breaker_opens_at_its_threshold_and_not_before() -> None:
    breaker = Breaker().failed(0, draw=0.0).failed(0, draw=0.0)
    assert breaker.circuit(0) is Circuit.CLOSED
    breaker = breaker.failed(0, draw=0.0)
    assert breaker.circuit(0) is Circuit.OPEN
    assert breaker.admit(9.9) == (False, breaker)


def test_one_attempt_finds_out_whether_it_works_again() -> None:
    breaker = opened(Breaker(), 0)
    assert breaker.circuit(10) is Circuit.HALF_OPEN
    admitted, probing = breaker.admit(10)
    assert admitted
    assert probing.admit(10.1) == (False, probing)
    healed = probing.succeeded()
    assert healed.circuit(10.2) is Circuit.CLOSED
    assert healed.admit(10.2) == (True, healed)


def test_a_failed_probe_opens_it_for_longer() -> None:
    _, probing = opened(Breaker(), 0).admit(10)
    again = probing.failed(10, draw=0.0)
    assert again.opens_until_s == 30
    assert again.circuit(29.9) is Circuit.OPEN


def test_a_probe_that_never_reports_is_replaced() -> None:
    _, probing = opened(Breaker(probe_limit_s=60), 0).admit(10)
    assert probing.admit(69)[0] is False
    assert probing.admit(70)[0] is True


def test_the_archives_own_wish_holds_the_breaker() -> None:
    breaker = opened(Breaker(), 0).failed(0, draw=0.0, asked_s=300)
    assert breaker.opens_until_s == 300


@settings(max_examples=200)
@given(events=st.lists(st.tuples(st.booleans(), st.floats(0, 100), draws), max_size=60))
def test_whatever_happens_a_breaker_is_tried_again_within_the_ceiling(
    events: list[tuple[bool, float, float]],
) -> None:
    breaker, now_s = Breaker(), 0.0
    for success, passed_s, draw in events:
        now_s += passed_s
        admitted, breaker = breaker.admit(now_s)
        if admitted:
            breaker = breaker.succeeded() if success else breaker.failed(now_s, draw=draw)
        assert breaker.opens_until_s is None or breaker.opens_until_s - now_s <= 900
    admitted, _ = breaker.admit(now_s + 901)
    assert admitted


@given(st.floats(0, 1e9), st.floats(0, 0.999))
def test_what_could_not_be_asked_is_asked_again_after_about_as_long_again(waited_s: float, draw: float) -> None:
    backoff = Backoff(base_s=10.0, ceiling_s=900.0, jitter=0.25)
    delay_s = backoff.asked_again_s(waited_s, draw=draw)
    assert 7.5 <= delay_s <= 900.0
    if 10.0 <= waited_s <= 900.0:
        assert 0.5 * 0.75 * waited_s <= delay_s <= waited_s


@given(st.floats(0, 100), st.integers(0, 10_000))
def test_what_is_not_shown_is_asked_for_ever_more_seldom_up_to_the_first_retry(first_s: float, asked: int) -> None:
    backoff = Backoff(base_s=10.0, ceiling_s=900.0)
    assert backoff.shown_s(first_s, asked) <= backoff.shown_s(first_s, asked + 1) <= 10.0
