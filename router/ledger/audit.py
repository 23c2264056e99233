"""Whether chains are whole: those in the database, and those that still wait in the spool.

Floor: an adapter; blocks. A process may write, move and delete records meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from policies.ledger.chain import Broken, Link, Mark, Purpose, Why, fingerprint, seal, verify
from router.ledger.folder import folders
from router.ledger.mover import shipped
from router.ledger.segments import read_chain
from router.ledger.store import Chain, LedgerStore
from router.wire.record import Record, read_record

_TIMES = 5  # that a chain is read anew as records were deleted from its beginning meanwhile


@dataclass(slots=True)
class Finding:
    """Of one chain. `problem`: what is wrong in words, None where it is whole; `broken`: where. `first`, `last`,
    `since` and `until` (Unix seconds) are of the `records` up to there; so many of them are `of_tenant`."""

    chain: str
    problem: str | None = None
    broken: Broken | None = None
    records: int = 0
    of_tenant: int = 0
    first: int = 0
    last: int = 0
    since: float | None = None
    until: float | None = None

    def count(self, record: Record | None, tenant: str | None) -> None:
        """One more, whose place in the chain is looked at next."""
        if record is None:
            return
        self.records += 1
        self.first, self.last = self.first or record.sequence, record.sequence
        self.since, self.until = self.since if self.since is not None else record.at, record.at
        self.of_tenant += record.tenant == tenant


def audit_database(store: LedgerStore, key: bytes, replica: str | None, tenant: str | None) -> Iterator[Finding]:
    """A finding for each chain, or for that replica's. Raises DatabaseAway."""
    known = {chain.replica: chain for chain in store.chains()}
    for name in sorted({*known, *store.replicas()}):
        if replica is None or name == replica:
            yield _audit_chain(store, key, name, known.get(name), tenant)


def _audit_chain(store: LedgerStore, key: bytes, name: str, chain: Chain | None, tenant: str | None) -> Finding:
    if (foreign := _foreign(key, name)) is not None:
        return Finding(name, foreign)
    for _ in range(_TIMES):
        if chain is None:
            return Finding(name, "the database does not say where it ends: ledger_chains has no row of it")
        if (forged := _forged(key, chain)) is not None:
            return Finding(name, f"its {forged.value} in ledger_chains was changed")
        finding = Finding(name)
        links = _counted(store.links(name, chain.cut.sequence), finding, tenant)
        _judge(finding, key, links, chain.cut, chain.head)
        before, chain = chain.cut, next((one for one in store.chains() if one.replica == name), None)
        if finding.broken is None or (chain is not None and chain.cut == before):
            return finding
    return Finding(name, "it is cut faster than it can be read: try again")


def _forged(key: bytes, chain: Chain) -> Purpose | None:
    """Which mark of the chain nobody has sealed who knows the key."""
    marks = {Purpose.HEAD: (chain.head, chain.head_seal), Purpose.CUT: (chain.cut, chain.cut_seal)}
    found = (purpose for purpose, (mark, said) in marks.items() if seal(key, purpose, chain.replica, mark) != said)
    return next(found, None)


def audit_spool(root: Path, key: bytes, replica: str | None, tenant: str | None) -> Iterator[Finding]:
    """A finding for each folder of the spool, whose records may be in the database too. Raises OSError."""
    for path in folders(root) if root.is_dir() else ():
        if replica is not None and path.name != replica:
            continue
        finding = Finding(path.name, _foreign(key, path.name))
        if finding.problem is None:
            note = shipped(path, key)
            links = iter(_with_holes(read_chain(path)))
            first = next(links, None)
            if first is not None:
                begin = Mark(first.sequence - 1, first.previous)
                read = ((read_record(link.body), link) for link in _again(first, links))
                _judge(finding, key, _counted(read, finding, tenant), begin, note)
        yield finding


def _foreign(key: bytes, name: str) -> str | None:
    if name.startswith(f"{fingerprint(key)}-"):
        return None
    return "it was made with another secret, and can only be verified with that one"


def _counted(records: Iterable[tuple[Record | None, Link]], finding: Finding, tenant: str | None) -> Iterator[Link]:
    """The links; a record is counted when the one behind it is asked for, as it is known to be whole then."""
    before: tuple[Record | None, Link] | None = None
    whole = True
    for record, link in records:
        if before is not None and whole:
            finding.count(before[0], tenant)
            whole = link.sequence == before[1].sequence + 1
        before = record, link
        yield link
    if before is not None and whole:
        finding.count(before[0], tenant)


def _judge(finding: Finding, key: bytes, links: Iterator[Link], begin: Mark, end: Mark) -> None:
    _, finding.broken = verify(key, links, begin, end)
    if finding.broken is not None:
        finding.problem = f"record {finding.broken.sequence} is {_WORDS[finding.broken.why]}"


def _with_holes(links: Iterator[Link | None]) -> Iterator[Link]:
    """A line that is none stands for the record that should be there."""
    sequence = 0
    for link in links:
        sequence = link.sequence if link is not None else sequence + 1
        yield link if link is not None else Link(sequence, b"", b"", b"")


def _again(first: Link, rest: Iterator[Link]) -> Iterator[Link]:
    yield first
    yield from rest


_WORDS = {
    Why.CHANGED: "not as it was written (changed)",
    Why.MISSING: "missing",
    Why.REORDERED: "not in its place (reordered)",
    Why.TRUNCATED: "missing, with all that came behind it (truncated)",
}
