"""A reload of all workers is one: nobody has reloaded where one could not, and who fails to is replaced."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest

from router.config import Config, ConfigError, loads
from router.errors import WorkerUnavailable
from router.workers.metrics import SupervisorMetrics
from router.workers.reloading import Reloading

GOOD = httpx2.Response(200, json={"status": "good", "warnings": ["server.port: changed"]})
REFUSED = httpx2.Response(400, json={"status": "refused", "problems": ["pools.p (line 3): no file"]})
DONE = httpx2.Response(200, json={"status": "reloaded", "warnings": []})
HANGS = WorkerUnavailable("Worker does not answer.")


@dataclass
class FakeVoice:
    """Answers a trial and an order as it is told; `heard`: what it was asked, (dry run, configuration)."""

    index: int
    trial: httpx2.Response | WorkerUnavailable = GOOD
    order: httpx2.Response | WorkerUnavailable = DONE
    heard: list[tuple[bool, bytes]] = field(default_factory=list)

    async def ask(self, method: str, path: str, *, params: Any, content: bytes, seconds: float) -> httpx2.Response:
        assert (method, path) == ("POST", "/admin/reload")
        self.heard.append((params is not None, content))
        answer = self.trial if params is not None else self.order
        if isinstance(answer, WorkerUnavailable):
            raise answer
        return answer


class FakeCrew:
    def __init__(self, *voices: FakeVoice, file: bytes = b"server: {workers: 2}") -> None:
        self.metrics = SupervisorMetrics(lambda: ())
        self.data = b"before"
        self.file = file
        self.took: list[bytes] = []
        self.have: dict[int, bytes] = {}
        self.replaced: list[int] = []
        self._voices = list(voices)

    def voices(self) -> list[FakeVoice]:
        return self._voices

    def read(self) -> tuple[bytes, Config]:
        return self.file, loads(self.file, {})

    def take(self, data: bytes, config: Config) -> None:
        self.data = data
        self.took.append(data)

    def given(self, voice: FakeVoice, data: bytes) -> None:
        self.have[voice.index] = data

    def replace(self, voice: FakeVoice) -> None:
        self.replaced.append(voice.index)


async def test_one_tries_the_new_configuration_and_then_all_take_the_same_bytes() -> None:
    one, other = FakeVoice(0), FakeVoice(1)
    crew = FakeCrew(one, other)
    found = await Reloading(crew).run(dry_run=False)
    assert [str(problem) for problem in found] == ["server.port: changed"]
    assert one.heard == [(True, crew.file), (False, crew.file)]
    assert other.heard == [(False, crew.file)]
    assert (crew.took, crew.have, crew.replaced) == ([crew.file], {0: crew.file, 1: crew.file}, [])
    assert crew.metrics.reloads == {"ok": 1}


async def test_what_one_refuses_nobody_takes() -> None:
    one, other = FakeVoice(0, trial=REFUSED), FakeVoice(1)
    crew = FakeCrew(one, other)
    with pytest.raises(ConfigError, match=r"pools\.p \(line 3\): no file"):
        await Reloading(crew).run(dry_run=False)
    assert (other.heard, crew.took, crew.data) == ([], [], b"before")
    assert crew.metrics.reloads == {"refused": 1}


async def test_a_file_that_cannot_be_read_reaches_no_worker() -> None:
    one = FakeVoice(0)
    crew = FakeCrew(one, file=b"nonsense: 1")
    with pytest.raises(ConfigError, match="nonsense"):
        await Reloading(crew).run(dry_run=False)
    assert one.heard == []


async def test_a_dry_run_only_tries() -> None:
    one = FakeVoice(0)
    crew = FakeCrew(one)
    assert len(await Reloading(crew).run(dry_run=True)) == 1
    assert (one.heard, crew.took, crew.metrics.reloads) == ([(True, crew.file)], [], {})


async def test_another_tries_where_the_first_does_not_answer_and_who_does_not_take_it_is_replaced() -> None:
    hanging, well, odd = FakeVoice(0, HANGS, HANGS), FakeVoice(1), FakeVoice(2, order=REFUSED)
    crew = FakeCrew(hanging, well, odd)
    await Reloading(crew).run(dry_run=False)
    assert (crew.have, sorted(crew.replaced)) == ({1: crew.file}, [0, 2])


async def test_where_nobody_can_try_nothing_is_reloaded() -> None:
    for crew in (FakeCrew(), FakeCrew(FakeVoice(0, HANGS))):
        with pytest.raises(ConfigError, match="cannot be tried"):
            await Reloading(crew).run(dry_run=False)
        assert crew.took == []


async def test_a_worker_that_was_starting_meanwhile_catches_up() -> None:
    late = FakeVoice(3)
    crew = FakeCrew()
    crew.data = b"newer"
    await Reloading(crew).catch_up(late)
    assert (late.heard, crew.have) == ([(False, b"newer")], {3: b"newer"})
