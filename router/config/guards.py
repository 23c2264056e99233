"""The rules of a tenant for what is said: `tenants.<id>.guards`, and the bounds of what is asked: `requests`.

Floor: keys only; a field's type, bounds, default and description are all there is to say of it. Times are seconds. What
a rule looks for is never repeated in a message.
"""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Le
from pydantic import AfterValidator, Field

from router.config.section import Section
from router.config.types import (
    NO_BOOL,
    Count,
    EngineKey,
    Expect,
    Name,
    Seconds,
    Share,
    Variable,
    Word,
    engine_url,
    field_name,
)
from router.guards.recognisers import PII_KINDS


def pii_kind(text: str) -> str:
    """The name of a recogniser."""
    if text not in PII_KINDS:
        raise ValueError
    return text


PiiKind = Annotated[str, AfterValidator(pii_kind), Expect(f"one of {', '.join(PII_KINDS)}")]
ServiceUrl = Annotated[str, AfterValidator(engine_url), Expect("a URL http(s)://host[:port]/path without query")]
Pattern = Annotated[str, Expect("a regular expression of Python's whose matches have at most 512 characters")]
FieldName = Annotated[str, AfterValidator(field_name), Expect("the name of a field of requests")]
Entity = Annotated[str, AfterValidator(field_name), Expect("the name of an entity of Presidio's")]


class FindConfig(Section):
    pii: tuple[PiiKind, ...] = Field(default=(), description="Personal data and secrets, each proved where it can be.")
    words: tuple[Word, ...] = Field(
        default=(), description="A deny-list: words and phrases, whatever their case, accents, spacing and look-alikes."
    )
    patterns: tuple[Pattern, ...] = Field(
        default=(), description="Regular expressions, looked for in text without compatibility forms and unseen marks."
    )
    injection: bool = Field(
        default=False,
        description="Attempts to override instructions, and marks of chat templates; not in the tenant's own "
        "system messages.",
    )


class ModerationConfig(Section):
    url: ServiceUrl = Field(description="Where to ask, as in OpenAI's `https://…/v1/moderations`.")
    model: Word | None = Field(default=None, description="The model to name in the question; null: none.")
    api_key: EngineKey | None = Field(default=None, repr=False, description="Key for it. Only by `api_key_env`.")
    api_key_env: Variable | None = Field(default=None, description="Environment variable that holds its key.")
    timeout: Seconds = Field(default=2.0, description="Seconds that an answer may take.")
    stream_characters: Annotated[int, NO_BOOL, Ge(1), Le(100_000)] = Field(
        default=400, description="Characters of a stream that wait until it has seen them, with as many before them."
    )
    categories: tuple[Word, ...] | None = Field(
        default=None, description="Categories that count; null: whatever it flags."
    )


class PresidioConfig(Section):
    language: Word = Field(default="en", description="Language of the texts.")
    model: Word = Field(
        default="en_core_web_sm",
        description="The spaCy model that finds names and places: a package that is installed, or a folder.",
    )
    entities: tuple[Entity, ...] | None = Field(default=None, description="Entities to look for; null: all it knows.")
    score: Share = Field(default=0.5, description="How sure it must be, up to 1.")
    timeout: Seconds = Field(default=2.0, description="Seconds that it may take for one request.")


class GuardConfig(Section):
    name: Name = Field(description="The rule's name in metrics, logs and errors.")
    on: Literal["input", "output", "both"] = Field(default="both", description="What it examines.")
    action: Literal["log", "redact", "block"] = Field(
        default="block", description="What becomes of what it finds: counted, taken out, or refused."
    )
    find: FindConfig = Field(default=FindConfig(), description="What it looks for.")
    service: ModerationConfig | None = Field(
        default=None, description="Who is asked, in the shape of OpenAI's moderations; not with `redact`."
    )
    presidio: PresidioConfig | None = Field(
        default=None, description="Presidio's recognisers (`pip install 'promptlane[presidio]'` and a spaCy model)."
    )
    when_unavailable: Literal["block", "allow"] = Field(
        default="block", description="What is done with what could not be examined: refused (503), or let through."
    )


class RequestsConfig(Section):
    max_tokens: Count | None = Field(
        default=None, description="Tokens that an answer may have at most; more is asked for as this; null: no bound."
    )
    refuse_fields: tuple[FieldName, ...] = Field(default=(), description="Fields of a body that are refused with 400.")
