"""An engine that says what it is told to, token by token, with vLLM's way to find stop strings and to hold text back.

Floor: tests only; pure. Written from `vllm/v1/engine/detokenizer.py` of vLLM 0.32 and held against captures of it, with
nothing taken from the gateway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Asked:
    """What a request says of its end."""

    stop: tuple[str, ...]
    include: bool
    min_tokens: int
    max_tokens: int


class Output(NamedTuple):
    """One event: how many tokens it has, what is shown with it, and how the answer ended, if it did."""

    tokens: int
    text: str
    finish: str | None = None
    stop: str | None = None


def grown(tokens: Sequence[bytes]) -> list[str]:
    """What each token adds to the text: nothing while it ends within a character."""
    texts, pending = [], b""
    for token in tokens:
        pending += token
        text = pending.decode("utf-8", "replace")
        if text.endswith("\ufffd"):
            text = ""
        else:
            pending = b""
        texts.append(text)
    return texts


def outputs(texts: Sequence[str], asked: Asked) -> list[Output]:
    """The answer whose tokens add these texts, one event a token."""
    hold = 0 if asked.include else max((len(one) for one in asked.stop), default=1) - 1
    whole, told, out = "", 0, []
    for count, text in enumerate(texts[: asked.max_tokens], start=1):
        whole += text
        found = _found(whole, len(text), asked) if count > asked.min_tokens else None
        finish = "length" if count == asked.max_tokens else None
        if found is not None:
            whole, finish = whole[: found[1] if asked.include else found[1] - len(found[0])], "stop"
        until = len(whole) if finish else max(told, len(whole) - hold)
        out.append(Output(1, whole[told:until], finish, found[0] if found else None))
        told = max(told, until)
        if finish:
            return out
    return out


def _found(whole: str, new: int, asked: Asked) -> tuple[str, int] | None:
    """The stop string that ends first within the `new` last characters, and where."""
    best: tuple[str, int] | None = None
    for end in range(len(whole) - new + 1, len(whole) + 1):
        for one in asked.stop:
            if best is None and whole[:end].endswith(one):
                best = one, end
    return best


def merged(events: Sequence[Output], sizes: Sequence[int]) -> list[Output]:
    """As a busy engine sends them: so many at once, and those behind the last size one by one."""
    out, at = [], 0
    for size in [*sizes, *[1] * len(events)]:
        together = events[at : at + size]
        at += size
        if together:
            text = "".join(one.text for one in together)
            out.append(Output(sum(one.tokens for one in together), text, together[-1].finish, together[-1].stop))
    return out
