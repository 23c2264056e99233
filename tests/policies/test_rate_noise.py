"""Endpoints that are equal are believed to be equal, however badly prompts are estimated; and a change is still seen.

Requests go where an endpoint seems to be faster: what is believed of eight equal ones by chance costs affinity.
"""

from __future__ import annotations

from random import Random

import pytest

from benchmarks.engine.cost import StepCost
from benchmarks.engine.model import ModelConfig
from benchmarks.replay_parts.fleet import Fleet
from benchmarks.replay_parts.trace import Job, make_jobs
from policies.learning import RateLearner
from policies.rate_fit import RateFit
from tests.policies.test_learning import at_load, prefill_error


class Misjudged:
    """Sends all to one engine; prompts are estimated wrongly by up to `error`, and the engine tells the truth at the
    end."""

    def __init__(self, fleet: Fleet, learner: RateLearner, error: float, seed: int) -> None:
        self._fleet = fleet
        self._learner = learner
        self._error = error
        self._rng = Random(seed)

    def arrive(self, job: Job, now: float) -> None:
        tokens = max(1, round(job.prompt * self._rng.uniform(1 - self._error, 1 + self._error)))
        self._learner.dispatched(job.number, tokens, 0, True, now)
        self._fleet.send(0, job)

    def first_token(self, job: Job, engine: int, now: float) -> None:
        self._learner.first_token(job.number, now)

    def finish(self, job: Job, engine: int, now: float) -> None:
        self._learner.finished(job.number, now, job.output, job.prompt, self._fleet.log.cached[job.number])


@pytest.mark.parametrize("load", [0.3, 0.6])
def test_endpoints_with_equal_work_are_believed_to_be_equal_however_badly_prompts_are_estimated(load: float) -> None:
    cost, found = StepCost(), []
    jobs = make_jobs(at_load(cost, load, median=3_000)(1, 400), 512)
    for seed in range(6):
        fleet, learner = Fleet(ModelConfig(cost=cost), 1), RateLearner()
        fleet.run(Misjudged(fleet, learner, 0.3, seed), jobs, [job.at for job in jobs])
        found.append(prefill_error(learner.rates, cost, 4_000))
    assert max(found) < 1.06 * min(found)
    assert min(found) > 0.85
    assert max(found) < 1.15


def rows(fit: RateFit, slower: float, count: int, rng: Random) -> None:
    for _ in range(count):
        tokens = rng.uniform(200, 8_000)
        seconds = slower * 67e-6 * tokens * rng.uniform(0.7, 1.3)
        fit.learn((tokens, 0.0, 0.0), seconds, pulls=(1.0, 1.0))


@pytest.mark.parametrize("slower", [0.5, 0.7, 1.5, 2.0])
def test_a_long_memory_ends_where_rows_are_no_longer_met_on_average(slower: float) -> None:
    rng, fit = Random(1), RateFit((67e-6, 2.8e-9, 0.012), 0.2e-6, 0.1)
    rows(fit, 1.0, 400, rng)
    assert fit.values[0] == pytest.approx(67e-6, rel=0.1)
    rows(fit, slower, 50, rng)
    assert fit.values[0] == pytest.approx(slower * 67e-6, rel=0.15)
    assert fit.jumps == 0
