"""The response cache: which requests have one answer only, which answers are worth keeping, and what a hit counts.

Floor: `policies`, pure.

A request has one answer where its engine samples nothing by chance: an API that generates nothing, or one choice with
`temperature` 0 or, where the API knows it, a `seed`, said by the client in so many words: what an engine's own defaults
are is not known here. What depends on more than the request (stored conversations, tools that an engine calls, files at
some address) has no one answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from policies.admission.limit import Use

# APIs that compute without sampling; those that sample; those of them whose engines take a seed.
_COMPUTED: Final = frozenset({"embeddings", "rerank", "score"})
_SAMPLED: Final = frozenset({"chat", "completions", "responses", "messages"})
_SEEDED: Final = frozenset({"chat", "completions"})
# Endings of an answer that an engine or a rule has cut.
_CUT: Final = frozenset({"abort", "error", "content_filter"})


class Billing(StrEnum):
    """What an answer from the cache counts: no tokens; its prompt as if an engine had had all of it in its cache; as
    much as when an engine had made it."""

    NONE = "none"
    CACHED = "cached"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Asked:
    """What of a request says whether it has one answer. `temperature`: None where it is not said; `choices`: how many
    are drawn for each prompt; `outside`: the answer depends on more than the request."""

    api: str
    temperature: float | None = None
    seeded: bool = False
    choices: int = 1
    outside: bool = False


@dataclass(frozen=True, slots=True)
class Answered:
    """How a request ended. `error`: it failed or was refused; `resumes`: how often another engine went on with it;
    `refused`: the status of an error inside the answer; `degraded`: another pool answered, with less."""

    status: int
    error: bool = False
    refused: int = 0
    resumes: int = 0
    degraded: bool = False
    finish_reason: str | None = None


def has_one_answer(asked: Asked) -> bool:
    """Whether the same request has the same answer, as far as an engine can promise that."""
    if asked.outside or asked.choices != 1:
        return False
    if asked.api in _COMPUTED:
        return True
    return asked.api in _SAMPLED and (asked.temperature == 0 or (asked.seeded and asked.api in _SEEDED))


def worth_keeping(answered: Answered) -> bool:
    """Whether the answer is whole, one engine's alone, and what was asked for."""
    cut = answered.finish_reason in _CUT
    doubt = answered.error or answered.refused or answered.resumes or answered.degraded
    return answered.status == 200 and not cut and not doubt


def billed(billing: Billing, use: Use) -> Use:
    """What a hit counts of what its answer used; one request in any case, and no engine's time."""
    if billing is Billing.NONE:
        return Use()
    if billing is Billing.CACHED:
        return use._replace(cached=use.prompt, engine_cost=0)
    return use._replace(engine_cost=0)
