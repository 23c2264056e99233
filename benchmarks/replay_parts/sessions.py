"""Workloads of sessions, made: prompts that grow turn by turn. Coding agents, and people who chat.

Floor: benchmarks, pure. Nothing is recorded here: every number says where it comes from, or that it is assumed. The
same seed gives the same rows.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, count
from random import Random
from typing import NamedTuple

from benchmarks.replay_parts.trace import TRACE_BLOCK, Row

Shape = tuple[float, float]
"""A lognormal's median, and the spread of its logarithm."""

TOOL_SETS = 4
TOOL_BLOCKS = 16
"""Four kinds of agent; the tool descriptions of each are 8,192 tokens, which all its sessions share."""
LONGEST = 75_000
SHORTEST_END = 20_000
"""Tokens at which sessions end: between these, evenly."""
FIRST_TASK = 3_000
"""Tokens of a session's first task, on average, after the tool descriptions."""
TURN = (800.0, 0.9)
ANSWER = (120.0, 0.8)
GAP = (20.0, 0.9)
"""What a turn adds to the prompt, an answer (tokens), and the pause before the next turn (seconds): tool results are
mostly short, a few are whole files; pauses are tools and people."""
LONGEST_GAP = 120.0
LONGEST_TURN = 8_000
LONGEST_ANSWER = 1_500

CHATS_PER_SECOND = 5.0
"""Conversations that begin: so many that 8 engines are saturated at about the trace's own rate, and pauses are as long
as they say. At random times: gaps in the Azure trace (below) have a coefficient of variation of 1.09; 1 is chance."""
OPEN_BEFORE = 600.0
"""Seconds of conversations before the first row, so that as many are open at the beginning as later."""
ASSISTANTS = 20
SYSTEM_BLOCKS = 2
"""Applications, the n-th as popular as 1/n (assumed), each with a system prompt of 1,024 tokens: the multi-round QA
benchmark of vLLM's production-stack has 1,000 (`--shared-system-prompt`)."""
GOES_ON = 0.73
"""Chance of another turn: 73 % of ShareGPT's conversations have more than one (Gao et al. 2024, CachedAttention,
arXiv 2403.19708). 3.7 turns on average."""
MESSAGE = (760.0, 0.99)
REPLY = (151.0, 0.86)
LONGEST_MESSAGE, LONGEST_REPLY = 14_000, 1_000
"""Tokens: prompts and answers of the Azure LLM inference trace 2023 (conversation, CC-BY-4.0), fitted. Its prompts may
hold history, so messages are rather too long."""
READING = 60 / (238 / 0.75)
"""Seconds a token of the answer takes to read: 238 words a minute (Brysbaert 2019, 190 studies), 0.75 words a token."""
WRITING = 0.015
"""Seconds a token takes to come: a step of these engines under load."""
THINKING = 30.0
"""Seconds until the next message, on average, besides (assumed)."""
CONTEXT = 32_000
"""Tokens at which a conversation ends at the latest (assumed)."""


@dataclass(slots=True)
class Session:
    """One agent or person at work. `blocks`: the ids of its whole blocks; `length`: tokens of its next prompt."""

    at: float
    length: int
    end: int
    blocks: list[int] = field(default_factory=list)


class Turn(NamedTuple):
    """The next prompt of a conversation; the earliest goes first."""

    at: float
    number: int
    session: Session


def agents(rng: Random, requests: int, fleet_tokens: int, live: float = 2.0) -> list[Row]:
    """So many sessions are live at any time that their prompts are `live` times `fleet_tokens`. One that is as long as
    it gets ends, and another begins in its place."""
    ids = count(TOOL_SETS * TOOL_BLOCKS)
    sessions: list[Session] = []
    while sum(session.length for session in sessions) < live * fleet_tokens:
        session = begin(rng, rng.uniform(0, LONGEST_GAP))
        session.length = round(rng.uniform(session.length, session.end))  # in the midst of its work
        sessions.append(session)
    rows: list[Row] = []
    while len(rows) < requests:
        number = min(range(len(sessions)), key=lambda index: sessions[index].at)
        session = sessions[number]
        answer = draw(rng, ANSWER, LONGEST_ANSWER)
        rows.append(ask(session, answer, ids))
        session.at += min(LONGEST_GAP, max(1.0, rng.lognormvariate(0, GAP[1]) * GAP[0]))
        session.length += answer + draw(rng, TURN, LONGEST_TURN)
        if session.length > session.end:
            sessions[number] = begin(rng, session.at)
    return rows


def begin(rng: Random, at: float) -> Session:
    """A session with nothing but its tools and its first task."""
    tools = rng.randrange(TOOL_SETS) * TOOL_BLOCKS
    length = TOOL_BLOCKS * TRACE_BLOCK + round(rng.expovariate(1 / FIRST_TASK))
    end = rng.randint(SHORTEST_END, LONGEST)
    return Session(at, min(length, SHORTEST_END), end, list(range(tools, tools + TOOL_BLOCKS)))


def chats(rng: Random, requests: int) -> list[Row]:
    """People who chat. Conversations begin at a steady rate; each goes on until its user has had enough, or its context
    is full."""
    ids, numbers = count(ASSISTANTS * SYSTEM_BLOCKS), count()
    popular = list(accumulate(1 / rank for rank in range(1, ASSISTANTS + 1)))
    coming = [Turn(-OPEN_BEFORE, next(numbers), open_chat(rng, -OPEN_BEFORE, popular))]
    newest = coming[0].session
    rows: list[Row] = []
    while len(rows) < requests:
        session = heapq.heappop(coming).session
        if session is newest:
            at = session.at + rng.expovariate(CHATS_PER_SECOND)
            newest = open_chat(rng, at, popular)
            heapq.heappush(coming, Turn(at, next(numbers), newest))
        reply = draw(rng, REPLY, LONGEST_REPLY)
        row = ask(session, reply, ids)
        if row.at >= 0:
            rows.append(row)
        if rng.random() < GOES_ON:
            session.at += reply * (WRITING + READING) + rng.expovariate(1 / THINKING)
            session.length += reply + draw(rng, MESSAGE, LONGEST_MESSAGE)
            if session.length <= session.end:
                heapq.heappush(coming, Turn(session.at, next(numbers), session))
    return rows


def open_chat(rng: Random, at: float, popular: list[float]) -> Session:
    """A conversation with its system prompt and its first message."""
    assistant = rng.choices(range(ASSISTANTS), cum_weights=popular)[0]
    system = range(assistant * SYSTEM_BLOCKS, (assistant + 1) * SYSTEM_BLOCKS)
    length = SYSTEM_BLOCKS * TRACE_BLOCK + draw(rng, MESSAGE, LONGEST_MESSAGE)
    return Session(at, length, CONTEXT, list(system))


def ask(session: Session, answer: int, ids: Iterator[int]) -> Row:
    """The session's prompt as it is now. Its new whole blocks get their ids; so does, as in recorded traces, the last
    one that is not full, which is nobody else's."""
    while len(session.blocks) < session.length // TRACE_BLOCK:
        session.blocks.append(next(ids))
    partial = [next(ids)] if session.length % TRACE_BLOCK else []
    return Row(session.at, session.length, answer, (*session.blocks, *partial))


def draw(rng: Random, shape: Shape, most: int) -> int:
    """Lognormal, at least 1 and at most `most`."""
    return min(most, max(1, round(rng.lognormvariate(0, shape[1]) * shape[0])))
