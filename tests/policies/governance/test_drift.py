"""What a model says of late against what it said before: when something is said of it, and what is forgotten."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.governance import drift as room
from policies.governance.drift import (
    LEAST_BASELINE,
    MOST_MODELS,
    SLICE_ANSWERS,
    SLICE_SECONDS,
    Distribution,
    Drift,
    Kept,
    Slice,
)
from policies.governance.measures import MOST_BUCKETS

AT = 1_800_000_000.0
KEY = ("acme", "qwen", "tokens")
Draw = Callable[[random.Random], float]


def usual(chance: random.Random) -> float:
    return chance.gauss(300, 60)


def longer(chance: random.Random) -> float:
    return chance.gauss(600, 60)


class Model:
    """A model that answers once in five seconds."""

    def __init__(self) -> None:
        self.drift, self.now, self.chance = Drift(), AT, random.Random(3)

    def answers(self, number: int, draw: Draw = usual, every: float = 5.0) -> float | None:
        for _ in range(number):
            self.now += every
            self.drift.note("acme", "qwen", [("tokens", draw(self.chance))], self.now)
        return self.drift.read()[KEY].drift


def test_nothing_is_said_before_there_is_enough_to_compare() -> None:
    model = Model()
    assert model.drift.read() == {}
    said = [model.answers(1) for _ in range(3000)]
    first = next(at for at, one in enumerate(said) if one is not None)
    assert first >= LEAST_BASELINE + SLICE_ANSWERS
    assert all(one is not None for one in said[first:])


def test_answers_that_are_alike_count_together_as_one_by_one() -> None:
    one_by_one, together = Drift(), Drift()
    for number in range(900):
        for _ in range(3):
            one_by_one.note("acme", "qwen", [("tokens", number % 50)], AT + number)
        together.note("acme", "qwen", [("tokens", number % 50)], AT + number, times=3)
    assert together.read() == one_by_one.read()


def test_a_change_is_seen_within_one_slice_and_no_change_is_none() -> None:
    model = Model()
    model.answers(2000)
    calm = [model.answers(1) for _ in range(500)]
    assert max(one for one in calm if one is not None) < 0.1
    seen = [model.answers(1, longer) for _ in range(2 * SLICE_ANSWERS)]
    assert next(at for at, one in enumerate(seen) if one is not None and one > 0.25) < SLICE_ANSWERS
    assert (model.answers(1, longer) or 0) > 1.0


def test_what_has_changed_for_good_is_the_usual_after_some_weeks() -> None:
    model = Model()
    model.answers(2000)
    assert (model.answers(400, longer, every=60.0) or 0) > 1.0
    assert (model.answers(20_000, longer, every=60.0) or 0) < 0.1


def test_the_level_is_the_mean_of_late() -> None:
    model = Model()
    model.answers(1000, lambda _: 300.0)
    model.answers(1000, lambda _: 600.0)
    assert model.drift.read()[KEY].level == 600.0
    for refused in (1, 0, 0, 0):
        model.drift.note("acme", "qwen", [("refusal", refused)], model.now)
    reading = model.drift.read()["acme", "qwen", "refusal"]
    assert (reading.drift, reading.level) == (None, 0.25)


def test_tenants_and_models_are_kept_apart() -> None:
    made = Drift()
    made.note("acme", "qwen", [("tokens", 1.0)], AT)
    made.note("globex", "qwen", [("tokens", 9.0)], AT)
    assert {key[0]: reading.level for key, reading in made.read().items()} == {"acme": 1.0, "globex": 9.0}


def test_the_model_that_was_silent_for_the_longest_time_is_forgotten_first() -> None:
    made = Drift()
    for number in range(MOST_MODELS):
        made.note("acme", f"m{number}", [("tokens", 1.0)], AT)
    made.note("acme", "m0", [("tokens", 1.0)], AT)
    made.note("acme", "new", [("tokens", 1.0)], AT)
    names = {model for _, model, _ in made.read()}
    assert (len(names), "m0" in names, "m1" in names) == (MOST_MODELS, True, False)


def again(made: Drift) -> Drift:
    """As it is after a restart."""
    other = Drift()
    other.restore(msgspec.json.decode(msgspec.json.encode(made.kept()), type=list[Kept]))
    return other


def test_after_a_restart_all_goes_on() -> None:
    model = Model()
    model.answers(2000)
    assert again(model.drift).read() == model.drift.read()
    model.drift = again(model.drift)
    assert (model.answers(SLICE_ANSWERS, longer) or 0) > 0.25


def test_what_is_not_sane_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Drift()
    good = Distribution("tokens", AT, Slice(AT))
    odd = [
        Distribution("unknown", AT, Slice(AT)),
        Distribution("tokens", AT, Slice(AT), baseline={MOST_BUCKETS: 1.0}),
        Distribution("tokens", AT, Slice(AT, {-1: 3}, 3)),
        Distribution("tokens", AT, Slice(AT), Slice(AT, {1: -3}, 3)),
    ]
    made.restore([Kept("acme", f"m{number}", one) for number, one in enumerate([good, *odd])])
    assert len(made) == 1
    monkeypatch.setattr(room, "MOST_MODELS", 2)
    made.restore([Kept("acme", f"m{number}", Distribution("tokens", AT, Slice(AT))) for number in range(9)])
    assert len(made) == 2


@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 1e6)), max_size=600))
def test_its_size_is_bounded_and_no_answer_is_counted_twice(answers: list[tuple[float, float]]) -> None:
    one, now = Distribution("tokens", AT, Slice(AT)), AT
    for value, later in answers:
        now += later
        one.add(value, now)
    slices = [part for part in (one.previous, one.present) if part is not None]
    assert sum(part.answers for part in slices) + sum(one.baseline.values()) <= len(answers) + 1e-6
    assert all(len(part.counts) <= MOST_BUCKETS for part in slices)
    assert one.sane
    if now - AT < SLICE_SECONDS:
        assert sum(part.answers for part in slices) == len(answers)
