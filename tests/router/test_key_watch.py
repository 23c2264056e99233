"""A process's keys follow the database: what a look takes over, and what it means when there is none."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from router.database.errors import DatabaseAway, DatabaseTooNew
from router.errors import Conflict, DatabaseUnavailable
from router.key_metrics import KeyCollector
from router.key_watch import KeyWatch, WatchSettings
from router.metrics import Metrics
from router.stored_keys import Seen, Stamp, StoredKey
from router.tenants import ApiKey, KeyRing, TenantDirectory
from tests.router.test_tenants import tenant

WALL, CLOCK = 1_000_000.0, 50.0


class NoDatabase:
    def close(self) -> None:
        pass


@dataclass
class Shelf:
    """A store in memory that can be away, stuck or too new."""

    keys: list[StoredKey] = field(default_factory=list)
    changed: int = 0
    trouble: Exception | None = None
    trouble_preparing: Exception | None = None
    prepared: int = 0
    part: Seen | None = None  # what is found next, if not all
    threads: set[int] = field(default_factory=set)
    stuck: threading.Event | None = None
    database: NoDatabase = field(default_factory=NoDatabase)

    def prepare(self) -> None:
        self.prepared += 1
        if self.trouble_preparing is not None:
            raise self.trouble_preparing

    def look(self, known: Stamp | None, now: float) -> Seen | None:
        self.threads.add(threading.get_ident())
        if self.stuck is not None:
            self.stuck.wait(30.0)
        if self.trouble is not None:
            raise self.trouble
        if self.part is not None:
            part, self.part = self.part, None
            return part
        stamp = Stamp(self.changed, "")
        return None if stamp == known else Seen(stamp, [key for key in self.keys if key.live(now)])

    def put(self, *keys: StoredKey) -> None:
        self.keys, self.changed = list(keys), self.changed + 1


@dataclass
class Scene:
    shelf: Shelf
    ring: KeyRing
    watch: KeyWatch
    metrics: Metrics
    settings: WatchSettings = field(default_factory=lambda: WatchSettings(3600.0, None))
    wall: float = WALL
    clock: float = CLOCK

    def known(self) -> list[str]:
        return sorted(key.id for key in self.ring.by_digest.values())

    def looks(self, result: str) -> float:
        return self.metrics.total("promptlane_key_looks", result)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    shelf, ring, metrics = Shelf(), KeyRing(), Metrics()
    made: Scene
    watch = KeyWatch(
        shelf,  # type: ignore[arg-type]  # has what the watch asks for
        ring,
        metrics,
        lambda: made.settings,
        clock=lambda: made.clock,
        wall_clock=lambda: made.wall,
    )
    made = Scene(shelf, ring, watch, metrics)
    yield made
    if shelf.stuck is not None:
        shelf.stuck.set()
    await watch.stop()


def key(name: str, **fields: object) -> StoredKey:
    return StoredKey(name, "acme", name.encode(), WALL, **fields)  # type: ignore[arg-type]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - it becomes true in a thread
            await asyncio.sleep(0.001)


async def test_a_look_takes_over_what_changed_and_counts_what_it_found(scene: Scene) -> None:
    scene.shelf.put(key("a"), key("b"))
    await scene.watch.look()
    await scene.watch.look()
    scene.shelf.put(key("b"), key("c"))
    await scene.watch.look()
    assert scene.known() == ["b", "c"]
    assert (scene.looks("changed"), scene.looks("same"), scene.looks("failed")) == (2, 1, 0)
    assert scene.shelf.prepared == 1


async def test_of_a_change_only_what_has_changed_is_taken_over(scene: Scene) -> None:
    scene.shelf.put(key("a"), key("b"), key("c", expires_at=WALL + 5))
    await scene.watch.look()
    kept = scene.ring.by_digest[b"b"]
    news = [key("a", revoked_at=WALL), key("d"), key("e", grace_until=WALL)]
    scene.shelf.part = Seen(Stamp(9, ""), news, whole=False)
    await scene.watch.look()
    assert scene.known() == ["b", "c", "d"]
    assert scene.ring.by_digest[b"b"] is kept


async def test_keys_that_have_expired_do_not_stay_in_memory_however_many_are_made(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.key_watch._SWEEP_AFTER", 50)
    await scene.watch.look()
    for number in range(1000):
        scene.wall += 1.0
        made = [key(f"k{number}", expires_at=scene.wall + 10.0)]
        scene.shelf.part = Seen(Stamp(number + 1, ""), made, whole=False)
        await scene.watch.look()
        assert len(scene.ring.by_digest) <= 120
    assert f"k{number}" in scene.known()


async def test_nothing_of_the_database_runs_on_the_event_loop(scene: Scene) -> None:
    await scene.watch.look()
    assert threading.get_ident() not in scene.shelf.threads


async def test_a_database_that_is_away_takes_no_key_away_and_is_logged_once(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "promptlane.keys")
    scene.shelf.put(key("a"))
    await scene.watch.look()
    scene.shelf.trouble = DatabaseAway("it is gone")
    for _ in range(3):
        await scene.watch.look()
    assert (scene.known(), scene.looks("failed"), scene.watch.looked_at) == (["a"], 3, CLOCK)
    assert caplog.text.count("it is gone): its 1 known keys stay valid until it is back") == 1
    scene.shelf.trouble = None
    scene.clock += 7
    await scene.watch.look()
    assert (caplog.text.count("answers again"), scene.watch.looked_at) == (1, CLOCK + 7)
    assert scene.shelf.prepared == 1, "it is not made anew"


async def test_known_keys_stay_valid_as_long_as_configured(scene: Scene) -> None:
    scene.shelf.put(key("a"))
    await scene.watch.look()
    assert scene.ring.known_until == math.inf
    scene.settings = WatchSettings(3600.0, 60.0)
    await scene.watch.look()
    scene.shelf.trouble = DatabaseAway("it is gone")
    scene.wall += 59
    await scene.watch.look()
    assert scene.ring.find(b"a", scene.wall) is not None
    scene.wall += 1
    assert scene.ring.find(b"a", scene.wall) is None
    scene.shelf.trouble = None
    await scene.watch.look()
    assert scene.ring.find(b"a", scene.wall) is not None


async def test_a_process_that_starts_without_it_says_so_and_learns_of_it_later(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.shelf.put(key("a"))
    scene.shelf.trouble_preparing = DatabaseAway("nobody there")
    await scene.watch.look()
    assert "nobody there): only keys of the configuration are valid" in caplog.text
    assert (scene.known(), scene.watch.looked_at) == ([], None)
    scene.shelf.trouble_preparing = None
    await scene.watch.look()
    assert scene.known() == ["a"]


async def test_a_database_of_a_newer_program_is_told_to_whoever_starts(scene: Scene) -> None:
    scene.shelf.trouble_preparing = DatabaseTooNew("newer")
    with pytest.raises(DatabaseTooNew):
        await scene.watch.look()


@pytest.mark.parametrize("trouble", [DatabaseAway("x"), DatabaseTooNew("x"), RuntimeError("a fault")])
async def test_the_watching_goes_on_whatever_a_look_meets(scene: Scene, trouble: Exception) -> None:
    scene.settings = WatchSettings(0.001, None)
    scene.shelf.trouble_preparing = trouble
    scene.watch.start()
    await until(lambda: scene.shelf.prepared > 2)
    scene.shelf.trouble_preparing = None
    scene.shelf.put(key("a"))
    await until(lambda: scene.known() == ["a"])
    faults = scene.metrics.total("promptlane_internal_errors", "keys")
    assert (faults > 0) == isinstance(trouble, RuntimeError)
    assert (scene.looks("failed") > 0) != isinstance(trouble, RuntimeError)


async def test_a_change_of_its_own_holds_when_it_is_answered(scene: Scene) -> None:
    await scene.watch.look()
    made = await scene.watch.change(lambda store: store.put(key("mine")) or "made")  # type: ignore[attr-defined]
    assert (made, scene.known()) == ("made", ["mine"])


async def test_a_change_made_during_a_look_is_not_missed(scene: Scene) -> None:
    """The look under way has read the counter before: the change waits for it and looks again."""
    scene.shelf.stuck = threading.Event()
    under_way = asyncio.create_task(scene.watch.look())
    await until(lambda: bool(scene.shelf.threads))
    change = asyncio.create_task(scene.watch.change(lambda store: store.put(key("mine"))))  # type: ignore[attr-defined]
    await until(lambda: scene.shelf.changed == 1)
    scene.shelf.stuck.set()
    await asyncio.gather(under_way, change)
    assert scene.known() == ["mine"]


async def test_a_change_that_fails_says_whose_fault_it_was(scene: Scene) -> None:
    def refused(_: object) -> None:
        raise Conflict("taken")

    def away(_: object) -> None:
        raise DatabaseAway("it is gone")

    with pytest.raises(Conflict):
        await scene.watch.change(refused)
    with pytest.raises(DatabaseUnavailable, match="it is gone"):
        await scene.watch.change(away)


async def test_changes_do_not_pile_up_before_a_database_that_is_stuck(scene: Scene) -> None:
    release = threading.Event()
    piled = [asyncio.create_task(scene.watch.ask(lambda _: release.wait(30.0))) for _ in range(16)]
    await asyncio.sleep(0)
    with pytest.raises(DatabaseUnavailable, match="wait for the database already"):
        await scene.watch.ask(lambda _: None)
    release.set()
    assert await asyncio.gather(*piled) == [True] * 16
    await scene.watch.ask(lambda _: None)


async def test_the_gauges_count_keys_by_tenant_and_source_and_the_age_of_the_last_look(scene: Scene) -> None:
    scene.shelf.put(key("a"), key("b", expires_at=WALL + 5), StoredKey("c", "nobody", b"c", WALL))
    own = [ApiKey("main", "acme", b"main"), ApiKey("old", "acme", b"old", expires_at=WALL)]
    directory = TenantDirectory([tenant("acme")], {}, own, scene.ring)
    collector = KeyCollector(lambda: directory, scene.watch, lambda: scene.clock, lambda: scene.wall)

    def values() -> dict[str, float]:
        samples = [sample for family in collector.collect() for sample in family.samples]
        return {sample.labels.get("source", "age"): sample.value for sample in samples}

    assert values() == {"config": 1}
    await scene.watch.look()
    scene.clock += 3
    assert values() == {"config": 1, "database": 2, "age": 3}
    scene.wall += 5
    assert values() == {"config": 1, "database": 1, "age": 3}
