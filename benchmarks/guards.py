"""`make bench-guards`: what content rules cost, and by how much they delay a stream.

CPU of a request's prompt and of a streamed chunk, without rules and with more and more of them; and of each text how
many characters a client waits for, and for how long at an engine's pace. The least of several rounds counts: what the
machine does meanwhile can only add to it.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence

from router.guards.answers import AnswerGuard
from router.guards.guard import TenantGuard
from router.guards.injection import injection
from router.guards.recognisers import PII
from router.guards.rules import Action, Findings, Rule, Side, searches
from router.guards.window import Window
from router.guards.words import deny_list, deny_lists
from router.metrics import Metrics
from router.wire.openai import APIS, read_body

ROUNDS = 7
TOKENS_PER_SECOND = 50.0  # of one stream, on a busy engine
SEED = 7
CHAT = APIS["/v1/chat/completions"]
PROSE = """The quick brown fox jumps over the lazy dog, and nobody minds. In 2026 there were 365 days; the meeting is at
12:30 in room 4. Please write to the office if you need anything else: we are open from nine to five. Thank you!"""
FORM = """Name: Jane Doe, mail jane.doe@acme.com, phone +49 89 1234567, card 4111 1111 1111 1111 (valid 12/29), account
DE89 3704 0044 0532 0130 00. Her server is 10.1.2.3 and its key sk-proj-abcdefghijklmnopqrstuvwxyz. """


def rules() -> dict[str, list[Rule]]:
    """Sets of rules, by what they are called in the tables."""
    draw = random.Random(SEED)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(5, 10))) for _ in range(1000)]
    deny = Rule("deny", Action.BLOCK, frozenset(Side), tuple(deny_lists(["project starfish", "bombshell", *words[:8]])))
    long = Rule("long", Action.BLOCK, frozenset(Side), (deny_list(words),))
    pii = Rule("pii", Action.REDACT, frozenset(Side), tuple(PII.values()))
    attack = Rule("injection", Action.BLOCK, frozenset({Side.INPUT}), (injection(),))
    return {
        "no rule": [],
        "10 words": [deny],
        "1,000 words": [long],
        "all PII": [pii],
        "injection": [attack],
        "all of these": [deny, long, pii, attack],
    }


def tokens(text: str) -> list[str]:
    """Pieces as a model writes them: a word with its space, long ones in two."""
    pieces = []
    for word in text.replace("\n", " \n").split(" "):
        half = len(word) // 2 if len(word) > 6 else len(word)
        pieces += [f" {word[:half]}", *([word[half:]] if half < len(word) else [])]
    return pieces


def least(work: Callable[[], object], times: int) -> float:
    """Microseconds of CPU for one call."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time_ns()
        for _ in range(times):
            work()
        best = min(best, (time.process_time_ns() - began) / times / 1000)
    return best


def prompt_cost(chosen: Sequence[Rule], size: int) -> float:
    """Microseconds of CPU to examine a chat of `size` characters in 10 turns, in which nothing is found."""
    text = (PROSE * (size // 10 // len(PROSE) + 1))[: size // 10]
    data = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}] * 10}).encode()
    guard = TenantGuard("bench", chosen, Metrics(), time.monotonic) if chosen else None
    body = read_body(CHAT, data)

    async def examine() -> None:
        if guard is not None:
            _, findings = await guard.examine(CHAT, body, 0)
            if findings.blocked_by is not None or findings.counts:
                raise AssertionError("the prose has something in it")

    loop = asyncio.new_event_loop()
    try:
        return least(lambda: loop.run_until_complete(examine()), max(3, 200_000 // size))
    finally:
        loop.close()


def chunk_cost(chosen: Sequence[Rule]) -> float:
    """Microseconds of CPU for a chunk of a chat's stream."""
    chunks = [
        b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,'
        b'"delta":{"content":%b},"logprobs":null,"finish_reason":null}]}\n\n' % json.dumps(piece).encode()
        for piece in tokens(PROSE)
    ]
    output = [rule for rule in chosen if Side.OUTPUT in rule.sides]
    if not output:
        return 0.0
    found = searches(output)

    def stream() -> None:
        screen = AnswerGuard(CHAT, output, found, time.monotonic).stream()
        for chunk in chunks:
            screen.feed(chunk)
        screen.end()

    return least(stream, 20) / len(chunks)


def delays(chosen: Sequence[Rule], text: str) -> tuple[float, int, float, float]:
    """Of a stream: the share of characters that leave with their own chunk in percent, the most that are held, and the
    p50 and p99 of milliseconds that a held one waits."""
    window = Window(searches([rule for rule in chosen if Side.OUTPUT in rule.sides]), Findings(Side.OUTPUT))
    came: list[int] = []  # of each character still held, the chunk that brought it
    waits: list[int] = []
    most = 0
    pieces = [*tokens(text), ""]
    for number, piece in enumerate(pieces):
        window.feed(piece, final=number == len(pieces) - 1)
        came += [number] * len(piece)
        most = max(most, window.held)
        gone = len(came) - window.held
        waits += [number - one for one in came[:gone]]
        del came[:gone]
    held = sorted(wait * 1000 / TOKENS_PER_SECOND for wait in waits if wait) or [0.0]
    share = 100 * (1 - len([wait for wait in waits if wait]) / len(waits))
    return share, most, statistics.median(held), held[int(len(held) * 0.99)]


def main() -> None:
    sets = rules()
    sizes = (1_000, 10_000, 100_000)
    print("CPU of a prompt in which nothing is found, µs; and of a chunk of a stream, µs\n")
    print(f"| rules | {' | '.join(f'{size:,} characters' for size in sizes)} | a chunk |")
    print("|---|---|---|---|---|")
    for name, chosen in sets.items():
        costs = [prompt_cost(chosen, size) for size in sizes]
        print(f"| {name} | {' | '.join(f'{cost:,.0f}' for cost in costs)} | {chunk_cost(chosen):.1f} |")
    print(f"\nHow a stream of {TOKENS_PER_SECOND:.0f} tokens a second is held back\n")
    print("| rules | text | leave at once | most held, characters | a held one waits, p50 ms | p99 ms |")
    print("|---|---|---|---|---|---|")
    for name in ("10 words", "1,000 words", "all PII", "all of these"):
        # What blocks would end the stream: in this table it takes out.
        chosen = [Rule(one.name, Action.REDACT, one.sides, one.finders) for one in sets[name]]
        for kind, text in (("prose", PROSE * 20), ("a form", FORM * 20)):
            share, most, median, late = delays(chosen, text)
            print(f"| {name} | {kind} | {share:.0f} % | {most} | {median:.0f} | {late:.0f} |")


if __name__ == "__main__":
    main()
