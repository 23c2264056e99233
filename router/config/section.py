"""What every mapping of the file has in common: unknown keys fail, nothing changes after the check.

Floor: the base of the sections. An empty section (`tenants:` with nothing below) means its defaults; an empty value is
a mistake.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from router.config.words import describe


class Section(BaseModel):
    """What every mapping of the file has in common."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_section_means_defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value is not None or not _is_container(cls, key)}


def _is_container(model: type[BaseModel], key: str) -> bool:
    field = model.model_fields.get(key)
    return field is not None and describe(field.rebuild_annotation()).startswith(("a mapping", "a list"))


class Switch(Section):
    """A section with a field `enabled`, for which yes or no is short."""

    @model_validator(mode="before")
    @classmethod
    def _yes_or_no(cls, data: Any) -> Any:
        return {"enabled": data} if isinstance(data, bool | str) else data
