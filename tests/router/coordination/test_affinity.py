"""Who owns a pool next knows which endpoint holds what."""

from __future__ import annotations

from pathlib import Path

from router.coordination.journal import FileJournal
from tests.policies.builders import PREFIX
from tests.router.builders import request
from tests.router.coordination.peers import until
from tests.router.coordination.test_remote import OK
from tests.router.coordination.world import Replica


def knows(replica: Replica) -> int:
    return replica.states[0].index.match(PREFIX)


def written(replica: Replica) -> bool:
    assert replica.remote.affinity is not None
    journal = replica.remote.affinity._writer.journal
    return not journal.due and not journal.waiting


async def has_served(owner: Replica) -> None:
    """It owns the pool, and has learned of a cache by one request."""
    owner.sees(owner, 1)
    ticket = await owner.pool.dispatch(request())
    ticket.first_token()
    ticket.settle(OK)


async def test_what_an_owner_learned_of_caches_the_next_one_reads_back(tmp_path: Path) -> None:
    journals = FileJournal(tmp_path)
    owner, heir = Replica("owner", journals=journals), Replica("heir", journals=journals)
    await has_served(owner)
    assert (knows(owner), knows(heir)) == (len(PREFIX), 0)
    await until(lambda: written(owner))
    heir.sees(heir, 2)
    await until(lambda: knows(heir) == len(PREFIX))
    owner.sees(heir, 2)
    for one in (owner, heir):
        assert one.remote.affinity is not None
        one.remote.affinity.end()
        await one.remote.affinity.stopped()


async def test_after_a_reload_the_new_endpoints_caches_are_written_down_too(tmp_path: Path) -> None:
    journals = FileJournal(tmp_path)
    owner = Replica("owner", journals=journals)
    owner.sees(owner, 1)
    await until(lambda: owner.states[0].index.scribe is not None)
    before = owner.states
    owner.states = Replica("x", names=("e0", "e1")).states
    pool = owner.make_pool(100)
    owner.remote.serve(pool)
    assert [one.index.scribe is not None for one in (*owner.states, *before)] == [True, True, False]
    assert owner.remote.affinity is not None
    owner.remote.affinity.end()
    await owner.remote.affinity.stopped()
    assert [one.index.scribe for one in owner.states] == [None, None]


async def test_an_heir_whose_endpoints_are_found_while_it_reads_knows_what_was_written_of_them(tmp_path: Path) -> None:
    journals = FileJournal(tmp_path)
    owner, heir = Replica("owner", journals=journals), Replica("heir", journals=journals)
    await has_served(owner)
    await until(lambda: written(owner))
    places = heir.pool.places
    heir.pool.change([])
    heir.sees(heir, 2)  # it begins to read, and knows nobody yet
    heir.pool.change(places)
    await until(lambda: knows(heir) == len(PREFIX))
    assert heir.states[0].index.scribe is not None
    owner.sees(heir, 2)
    for one in (owner, heir):
        assert one.remote.affinity is not None
        one.remote.affinity.end()
        await one.remote.affinity.stopped()
