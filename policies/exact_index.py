"""Which prefix blocks one endpoint holds, as its engine's KV events tell it, without tokenizing anything.

Floor: `policies`, pure. What joins engine blocks with ours is the request: the gateway gives each attempt a session id
of its own, the engine's events repeat it, and the prompt's token count says where along our chain each engine block
ends (`kv_places`). While the events can be trusted (`in_sync`) they answer, together with what requests under way hold,
as a burst must see itself before the engine tells. Otherwise the estimate answers, which this class is a kind of and
keeps up all along. In sync it is never above what the engine holds where a text's tokens are spread evenly, and below
it by less than a block of ours and one of the engine's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from policies.kv_places import Places, Sent
from policies.kv_tree import AllBlocksCleared, BlockRemoved, BlockStored, CacheEvent, KvTree
from policies.prefix_index import PrefixIndex, Watch

# Engine blocks per block of the largest capacity so far, at most: one of ours stands for about 80 tokens of cache (64,
# and the share that the estimate leaves free), engines' blocks have 8 and more, and the size may still be a guess.
_ENGINE_BLOCKS = 40
# Places remembered per block of capacity: of what was evicted too, as it is often computed again.
_PLACES = 4
_MIN_BLOCKS = 1024  # of capacity; smaller bounds would save nothing
# Requests under way; more than any endpoint takes, so only what was never settled is dropped.
_MAX_SENT = 16_384
# Settled requests whose events may still be on their way (milliseconds).
_MAX_LATE = 64
# After a gap, or when listening began late, blocks turn up whose beginnings nobody told. The share of requests whose
# blocks could be placed, over about the last 32, must reach this before the events answer.
_ENOUGH = 0.9
_WEIGHT = 1 / 32
# A prompt count further from its estimate than this factor is of another text than the chain: cut, or with documents.
_ODD = 2.0


class _Anything:
    """In sync the engine's blocks say what matches: a look at the estimate's would miss them."""

    def __contains__(self, block: object) -> bool:
        return True


_ANYTHING = _Anything()


class ExactIndex(PrefixIndex):
    """`name`: begins the session ids; secret and unlike any other process's, so that nobody else's are taken for ours.

    `followed`: somebody listens or tries to, so requests should carry session ids. `doubtful`: the listener should read
    the engine's history anew, beginning with `lost` or `restarted`.
    """

    __slots__ = (
        "_complete",
        "_coverage",
        "_echoed",
        "_late",
        "_listening",
        "_most",
        "_name",
        "_number",
        "_places",
        "_sent",
        "_tree",
        "doubtful",
        "followed",
    )

    def __init__(self, capacity_blocks: int, name: str) -> None:
        super().__init__(capacity_blocks)
        self._name = name
        self._number = self._most = 0
        self._tree = KvTree()
        self._places = Places(self._tree, 0)
        self._sent: OrderedDict[str, Sent] = OrderedDict()
        self._late: OrderedDict[str, Sent] = OrderedDict()
        self._listening = self._echoed = self._complete = self.doubtful = self.followed = False
        self._coverage = 0.0
        self._bound()

    @property
    def estimates(self) -> bool:
        return not self.in_sync

    @property
    def in_sync(self) -> bool:
        """Whether the events answer: somebody listens, the engine repeats our session ids, and little is missing."""
        return self._listening and self._echoed and (self._complete or self._coverage >= _ENOUGH)

    @property
    def engine_blocks(self) -> int:
        """Engine blocks that are known to be there."""
        return len(self._tree)

    def observe(self, watch: Watch | None, placed: Watch | None) -> None:
        super().observe(watch, placed)
        self._places.observe(placed)

    def match(self, blocks: Sequence[int]) -> int:
        """How many leading blocks of this chain are present."""
        if not self.in_sync:
            return super().match(blocks)
        return max(self._places.cached(blocks)[0], len(blocks) - self.unheld(blocks))

    def cached_tokens(self, blocks: Sequence[int]) -> int:
        """Tokens of this chain that events say are there, in whole engine blocks; what is only held is not counted."""
        return self._places.cached(blocks)[1]

    def resize(self, capacity_blocks: int) -> None:
        super().resize(capacity_blocks)
        self._bound()

    def clear(self) -> None:
        """Forget everything, as an engine does that restarts or sleeps; the listener is asked to look again."""
        self.restarted()
        self.doubtful = True

    # What the gateway tells.

    def expect(
        self, blocks: Sequence[int], prompt_tokens: int, tokens_per_block: float, session: str | None = None
    ) -> str:
        """A request is about to be sent: the session id to send with it. `prompt_tokens` may be an estimate.
        `session`: one that another replica has given it."""
        if session is None:
            self._number += 1
            session = f"{self._name}-{self._number:x}"
        if blocks and prompt_tokens > 0:
            self._sent[session] = Sent(blocks, prompt_tokens, prompt_tokens, tokens_per_block)
            if len(self._sent) > _MAX_SENT:
                self._sent.popitem(last=False)
        return session

    def settle(self, session: str, prompt_tokens: int | None = None, cached_tokens: int | None = None) -> None:
        """The request has ended. Both counts are the engine's own, None where it gave none."""
        sent = self._sent.pop(session, None)
        if sent is None:
            return
        if prompt_tokens is not None:
            if not sent.estimate / _ODD <= prompt_tokens <= sent.estimate * _ODD:
                return
            sent.tokens, sent.exact = prompt_tokens, True
        size = self._tree.block_size
        if sent.parent is not None and cached_tokens and size and not cached_tokens % size:
            self._tree.adopt(sent.parent, cached_tokens // size)
        self._late[session] = sent
        if len(self._late) > _MAX_LATE:
            self._late.popitem(last=False)
        self._places.put(sent)
        self.version += 1

    # What the listener tells.

    def listen(self, listening: bool) -> None:
        """Whether events arrive as they happen."""
        self._listening = listening
        self._changed()

    def restarted(self) -> None:
        """Another engine process, with an empty cache."""
        super().clear()
        self._places.clear()
        self._sent.clear()
        self._late.clear()
        self._echoed = False
        self.lost()

    def lost(self, *, complete: bool = False) -> None:
        """Events were missed: what was told before may be gone by now. `complete`: all of them will be told again."""
        self._tree.clear()
        self._complete, self._coverage, self.doubtful = complete, 0.0, False
        self._changed()

    def apply(self, event: CacheEvent) -> None:
        """Take in one event, in the engine's order."""
        if isinstance(event, BlockStored):
            if self._tree.store(event) and event.session is not None:
                self._echo(event.session, event)
        elif isinstance(event, BlockRemoved):
            self._tree.remove(event)
        elif isinstance(event, AllBlocksCleared):
            super().clear()
            self.lost(complete=True)  # all that there is to know of an empty cache is known
        self._changed()

    def _changed(self) -> None:
        """What matches may be another now, and who says so."""
        self.version += 1
        self.heads = _ANYTHING if self.in_sync else self._blocks

    def _bound(self) -> None:
        self._most = max(self._most, self.capacity)  # an estimate that reports have cut says nothing of the engine
        blocks = max(_MIN_BLOCKS, self._most)
        self._tree.limit, self._places.limit = blocks * _ENGINE_BLOCKS, blocks * _PLACES

    def _echo(self, session: str, event: BlockStored) -> None:
        """Blocks of a request of ours."""
        sent = self._sent.get(session) or self._late.get(session)
        if sent is None:
            return
        self._echoed = True
        depth = self._tree.depth(event.hashes[0])
        if not sent.stored:
            self._coverage += ((depth > 0) - self._coverage) * _WEIGHT
            sent.root = self._places.root(sent.blocks)
            sent.parent = event.parent if not depth else None
        if event.parent is None and sent.root != event.hashes[0]:
            sent.foreign = sent.root is not None  # another prompt of the same request: our chain begins with the first
            sent.root = event.hashes[0]
        if not sent.foreign:
            self._follow(sent, event, depth)
            if session in self._late:
                self._places.put(sent)

    def _follow(self, sent: Sent, event: BlockStored, depth: int) -> None:
        """Move the tail along the prompt, not into the answer."""
        before = (depth - 1) * event.block_size if depth else sent.stored
        room = int((sent.tokens * _ODD - before) / event.block_size) + 1
        if room > 0:
            last = event.hashes[:room][-1]
            if sent.tail is None or not depth or self._tree.depth(last) > self._tree.depth(sent.tail):
                sent.tail = last
        sent.stored += len(event.hashes) * event.block_size
