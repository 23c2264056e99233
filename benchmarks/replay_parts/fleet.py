"""A fleet of engines on a virtual clock, and what happened to every request.

Floor: benchmarks, pure. The engines are `benchmarks.engine.model.EngineModel`, the object behind the HTTP simulator. A
router (`Router`) is told of arrivals, first tokens and finishes, and answers with `send`; network and gateway take no
time here.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.engine.cache import KVCache
from benchmarks.engine.model import EngineModel, ModelConfig
from benchmarks.engine.model import Sequence as Prompt
from benchmarks.replay_parts.trace import Job


class Router(Protocol):
    """A routing policy under test. It calls `Fleet.send` for each job, at once or later, or `Fleet.reject`."""

    def arrive(self, job: Job, now: float) -> None: ...

    def first_token(self, job: Job, engine: int, now: float) -> None: ...

    def finish(self, job: Job, engine: int, now: float) -> None: ...


@dataclass(slots=True)
class Log:
    """What became of each job, by number: seconds on the virtual clock, None where it did not happen."""

    arrived: list[float]
    first: list[float | None]
    finished: list[float | None]
    cached: list[int]
    engine: list[int]
    rejected: int = 0
    fullest: float = 0.0
    """Requests at the fullest engine, summed over arrivals; divided by `present` it tells the imbalance."""
    present: float = 0.0

    def ended_at(self) -> list[tuple[int, float]]:
        """The engine and the time of every finish."""
        return [(engine, at) for engine, at in zip(self.engine, self.finished, strict=True) if at is not None]


@dataclass(slots=True, eq=False)
class Engine:
    """One engine and its step under way. `ends`: of the decode steps that it makes in one go, of which `steps` count.

    `wake`: the number of the heap entry that is awaited; an older one was overtaken by an arrival.
    """

    model: EngineModel
    jobs: dict[str, Job] = field(default_factory=dict)
    ends: list[float] = field(default_factory=list)
    steps: int = 0
    step_began: float = 0.0
    step_ends: float = 0.0
    events: list[tuple[Job, bool]] = field(default_factory=list)
    wake: int = 0
    idle: bool = True
    in_flight: int = 0


class Fleet:
    """`count` engines. `shared`: one cache for all of them, without a bound (nothing is ever computed twice)."""

    def __init__(self, config: ModelConfig, count: int, *, shared: bool = False) -> None:
        self.config = config
        self.engines = [Engine(EngineModel(config)) for _ in range(count)]
        if shared:
            cache = KVCache(1 << 40)
            for engine in self.engines:
                engine.model.cache = cache
        self.now = 0.0
        self._heap: list[tuple[float, int, int]] = []
        self._wakes = 0
        self._router: Router
        self.log = Log([], [], [], [], [])

    def run(
        self,
        router: Router,
        jobs: Sequence[Job],
        arrivals: Sequence[float],
        stop: Callable[[Log, Job], bool] = lambda log, job: False,
    ) -> Log:
        """Replay the jobs. `stop` is asked at every first token whether the rest no longer matters."""
        log, count = self._open(router, arrivals), len(jobs)
        heap, coming = self._heap, 0
        while coming < count or heap:
            if coming < count and (not heap or arrivals[coming] <= heap[0][0]):
                self.now = arrivals[coming]
                self._sample()
                router.arrive(jobs[coming], self.now)
                coming += 1
                continue
            at, wake, number = heapq.heappop(heap)
            engine = self.engines[number]
            if wake != engine.wake:
                continue
            self.now = at
            if not self._wake(engine, number, stop):
                break
        return log

    def _open(self, router: Router, arrivals: Sequence[float]) -> Log:
        count = len(arrivals)
        self._router = router
        self.log = Log(list(arrivals), [None] * count, [None] * count, [0] * count, [-1] * count)
        return self.log

    def send(self, engine_number: int, job: Job, priority: int = 0) -> None:
        """Submit now. An idle engine starts when everything that happens at this moment has happened."""
        engine, now = self.engines[engine_number], self.now
        name = str(job.number)
        try:
            engine.model.submit(Prompt(name, job.prompt, job.output, job.hashes, priority), now)
        except ValueError:  # more than the whole cache: a real engine answers 400
            self.reject(job)
            return
        engine.jobs[name] = job
        self.log.engine[job.number] = engine_number
        engine.in_flight += 1
        if engine.idle:
            engine.idle = False
            engine.ends, engine.steps, engine.events = [], 0, []
            engine.step_ends = now
            self._sleep(engine, engine_number, now)
        elif engine.ends:
            steps = bisect_left(engine.ends, now) + 1  # the step under way ends, and the next one may admit the job
            if steps < engine.steps:
                engine.steps = steps
                self._sleep(engine, engine_number, engine.ends[steps - 1])

    def reject(self, job: Job) -> None:
        self.log.rejected += 1

    def _sample(self) -> None:
        counts = [engine.in_flight for engine in self.engines]
        self.log.fullest += max(counts)
        self.log.present += sum(counts) / len(counts)

    def _sleep(self, engine: Engine, number: int, until: float) -> None:
        self._wakes += 1
        engine.wake = self._wakes
        heapq.heappush(self._heap, (until, self._wakes, number))

    def _wake(self, engine: Engine, number: int, stop: Callable[[Log, Job], bool]) -> bool:
        """A step, or several decode steps, are over: tell the router, begin the next. False: stop the replay."""
        if engine.ends:
            done = [(engine.jobs[one.id], True) for one in engine.model.decode(engine.steps)]
        else:
            done = engine.events
            engine.model.settle()
        engine.ends, engine.events = [], []
        going = True
        for job, last in done:
            going = self._tell(engine, number, job, last, stop) and going
        self._begin(engine, number)
        return going

    def _tell(self, engine: Engine, number: int, job: Job, last: bool, stop: Callable[[Log, Job], bool]) -> bool:
        log, now, going = self.log, self.now, True
        if log.first[job.number] is None:
            log.first[job.number] = now
            going = not stop(log, job)
            self._router.first_token(job, number, now)
        if last:
            log.finished[job.number] = now
            del engine.jobs[str(job.number)]
            engine.in_flight -= 1
            self._router.finish(job, number, now)
        return going

    def _begin(self, engine: Engine, number: int) -> None:
        now = engine.step_began = self.now
        engine.ends = engine.model.decode_ends(now)
        if engine.ends:
            engine.steps = len(engine.ends)
            self._sleep(engine, number, engine.ends[-1])
            return
        result = engine.model.step(now)
        for admitted in result.admitted:
            self.log.cached[int(admitted.id)] = admitted.cached_tokens
        if not result.tokens:
            engine.idle = True
            return
        engine.events = [
            (engine.jobs[one.sequence.id], one.last) for one in result.events if one.last or one.number == 0
        ]
        engine.step_ends = now + result.duration
        self._sleep(engine, number, engine.step_ends)
