"""The section `governance`: which answers are looked at, so that unusual ones can be told.

Floor: keys only; a field's type, bounds, default and description are all there is to say of it.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field, field_validator

from router.config.section import Section
from router.config.types import Share


class LookAt(StrEnum):
    """At which answers."""

    OFF = "off"
    SAMPLE = "sample"
    ALL = "all"


class GovernanceConfig(Section):
    output: LookAt = Field(
        default=LookAt.SAMPLE,
        description="Which answers' texts are measured for records and metrics (repetition, refusals, scripts, tool "
        "calls), where records are kept: none, a sample, or all; as far as a tenth of a core suffices.",
    )
    sample: Share = Field(default=0.1, description="Share of the answers that are, where `output` is sample.")

    @field_validator("output", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: object) -> object:
        """To YAML it is a switch."""
        return LookAt.OFF if value is False else value

    @property
    def share(self) -> float:
        """Of all answers."""
        return {LookAt.OFF: 0.0, LookAt.SAMPLE: self.sample, LookAt.ALL: 1.0}[self.output]
