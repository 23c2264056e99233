"""What a stream has said so far: enough for another engine to go on with it, and no more than a bound.

Floor: sans-IO. Kept by `router.wire.token_tap` while the stream runs, read by `router.wire.continuation` afterwards.
"""

from __future__ import annotations

from array import array
from typing import Final

from policies.stop_strings import StopRule
from router.wire.held_back import HeldBack, Seam

# What is kept of one stream at most: 4 bytes a token, and a prompt's ids as they were written, some 6 bytes each.
# Beyond, it goes on but cannot be continued.
MAX_TOKENS: Final = 256 * 1024
MAX_PROMPT_BYTES: Final = 2 * 1024 * 1024


class Progress:
    """What one stream has said so far, over all engines that had part in it.

    `head`: how each of its chunks begins, up to its choices. `prompt`: the prompt's ids, as JSON wrote them. `ids`: of
    the answer; the client has the text of the first `said`, but for what is held back. `merged`: such a count at the
    end of a chunk of several tokens, of which the last ones' text may not have come. `last`: the event with the last
    text. `text`: all of it, where it is kept. `held`: of a stream whose stop strings have several characters. `lost`:
    why it cannot be continued; empty while it can.
    """

    __slots__ = (
        "done", "finished", "head", "held", "ids", "keeps_text", "last", "lost", "merged", "prompt", "said",
        "text", "usage_sent",
    )  # fmt: skip

    def __init__(self, *, keeps_text: bool = False, stops: StopRule | None = None) -> None:
        self.head = b""
        self.prompt = b""
        self.ids = array("I")
        self.said = 0
        self.merged = 0
        self.last = b""
        self.keeps_text = keeps_text
        self.text: list[str] = []
        self.held = HeldBack(stops) if stops is not None and stops.reach else None
        self.lost = ""
        self.finished = False
        self.usage_sent = False
        self.done = False

    @property
    def prompt_tokens(self) -> int:
        return self.prompt.count(b",") + 1 if self.prompt else 0

    def lose(self, why: str) -> None:
        """From here on it cannot be continued: what was kept for that is let go."""
        self.lost = self.lost or why
        self.prompt, self.ids, self.text = b"", array("I"), []
        self.said = self.merged = 0
        self.held = None

    def add_ids(self, raw: bytes) -> None:
        """The ids of one chunk, as JSON wrote them."""
        if self.lost:
            return
        try:
            if raw.isdigit():
                self.ids.append(int(raw))
            elif raw:
                before = len(self.ids)
                self.ids.extend(map(int, raw.split(b",")))
                if len(self.ids) > before + 1:
                    self.merged = len(self.ids)
        except (ValueError, OverflowError):
            self.lose("ids")
        if len(self.ids) > MAX_TOKENS:
            self.lose("length")

    def rewind(self, seam: Seam) -> None:
        """Forgets the ids behind the seam: whoever goes on from there says them again."""
        if self.held is None:
            self.said = seam.ids
        else:
            self.held.begin(seam, len(self.ids))
        del self.ids[seam.ids :]
