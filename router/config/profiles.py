"""Profiles of an operator's own, composed by name from filters, scorers and pickers: `routing.profiles`.

Floor: keys only. Which parts there are, with which parameters and bounds, is read from `policies.parts`: a new part can
be used here without another line. `ProfileConfig.spec` says the same in the words of the policies.

    profiles:
      mine:
        filters: [available, best-role, seat]
        scorers: {predicted-ttft: {weight: 1.0, stickiness: 0.5}, hourly-cost: 0.01}   # a number is a weight
        picker: lowest-cost                                                            # or {lowest-cost: {…}}
        hold: true                                                                     # or false, or {wait_seconds: …}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from annotated_types import Ge, Le
from pydantic import AfterValidator, Field, create_model, model_validator

from policies.gate import Gate
from policies.parts import FILTERS, PICKERS, SCORERS, Parameter, Part
from policies.registry import DEFAULT_FILTERS, DEFAULT_PICKER, NEEDED_FILTERS, PartSpec, ProfileSpec
from router.config.section import Section, Switch
from router.config.types import NO_BOOL, Expect, Seconds, Share, Weight

if TYPE_CHECKING:
    FilterName: TypeAlias = str
else:
    FilterName = Literal[*FILTERS]


def _enough(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) != len(names) or not NEEDED_FILTERS.issubset(names):
        raise ValueError
    return names


_WHICH = f"a list of {', '.join(FILTERS)}, each once; {' and '.join(sorted(NEEDED_FILTERS))} must be there"
Filters: TypeAlias = Annotated[tuple[FilterName, ...], AfterValidator(_enough), Expect(_WHICH)]


class Parts(Section):
    """A mapping of parts' names to their parameters; policies/README.md lists the parts in a table of their own."""


def _fields(parameters: Mapping[str, Parameter]) -> dict[str, Any]:
    return {
        name: (Annotated[float, NO_BOOL, Ge(one.least), Le(one.most)], Field(default=one.default, description=one.text))
        for name, one in parameters.items()
    }


def _parts(name: str, base: type[Parts], table: Mapping[str, Part[object]], words: str, more: Any) -> Any:
    """The section of a table: one key per part, each a section of the part's parameters and `more`."""
    sections = {
        key: create_model(f"{name} {key}", __base__=Section, **{**more, **_fields(part.parameters)})
        for key, part in table.items()
    }
    keys: Any = {
        key: (Annotated[section | None, Expect(words)], Field(default=None, description=table[key].text))
        for key, section in sections.items()
    }
    return create_model(name, __base__=base, **keys)


class _Scorers(Parts):
    @model_validator(mode="before")
    @classmethod
    def _a_number_is_a_weight(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {name: _long_form(value) for name, value in data.items()}


def _long_form(value: Any) -> Any:
    if value is None:
        return {}
    return {"weight": value} if isinstance(value, str | int | float) else value


class _Picker(Parts):
    @model_validator(mode="before")
    @classmethod
    def _a_name_is_enough(cls, data: Any) -> Any:
        if isinstance(data, str):
            return {data: {}}
        if not isinstance(data, dict):
            return data
        return {name: {} if value is None else value for name, value in data.items()}

    @model_validator(mode="after")
    def _one(self) -> _Picker:
        if len(self.model_fields_set) != 1:
            raise ValueError
        return self


_SCORERS = "a mapping of scorers to weights, or to mappings with parameters"
_SCORER = "a weight, or a mapping of weight and parameters"
_PICKER = f"one of {', '.join(PICKERS)}, or a mapping of one of them to its parameters"
_WEIGHT = (Weight, Field(default=1.0, description="Times its cost counts."))

if TYPE_CHECKING:
    ScorersConfig: TypeAlias = _Scorers
    PickerConfig: TypeAlias = _Picker
else:
    ScorersConfig = _parts("ScorersConfig", _Scorers, SCORERS, _SCORER, {"weight": _WEIGHT})
    PickerConfig = _parts("PickerConfig", _Picker, PICKERS, "a mapping", {})


class HoldConfig(Switch):
    enabled: bool = Field(default=True, description="Whether requests wait at the gateway; `hold: false` is short.")
    wait_seconds: Seconds | None = Field(default=None, description="As routing.hold_seconds, which null takes.")
    kv_share: Share | None = Field(default=None, description="As routing.kv_share, which null takes.")


class ProfileConfig(Section):
    filters: Filters = Field(
        default=DEFAULT_FILTERS,
        description="Which endpoints may have a request; each sees what those before it have left.",
        json_schema_extra={"shown": ", ".join(DEFAULT_FILTERS)},
    )
    scorers: Annotated[ScorersConfig, Expect(_SCORERS)] = Field(
        default=ScorersConfig(),
        description="Costs of an endpoint, added up by weight; the lower the better.",
        json_schema_extra={"shown": "{}"},
    )
    picker: Annotated[PickerConfig, Expect(_PICKER)] = Field(
        default=PickerConfig.model_validate(DEFAULT_PICKER),
        description="How an endpoint is chosen by these costs.",
        json_schema_extra={"shown": DEFAULT_PICKER},
    )
    hold: Annotated[HoldConfig | None, Expect("null, true, false or a mapping")] = Field(
        default=None,
        description="Whether requests wait at the gateway until an engine is nearly free; null: as routing.hold.",
    )
    engine_priority: bool = Field(
        default=False, description="Whether engines are sent a `priority`, by which to order what they have."
    )

    def spec(self, name: str, gate: Gate, *, held: bool) -> ProfileSpec:
        """In the words of the policies. `gate` and `held`: what `routing` says of holding."""
        hold = self.hold or HoldConfig(enabled=held)
        own_gate = Gate(hold.wait_seconds or gate.wait_seconds, hold.kv_share or gate.kv_share)
        ((picker, given),) = _given(self.picker)
        return ProfileSpec(
            f"routing.profiles.{name}",
            tuple((PartSpec(scorer, given), weight) for scorer, given, weight in _weighed(self.scorers)),
            PartSpec(picker, given),
            own_gate if hold.enabled else None,
            self.engine_priority,
            self.filters,
        )


def _given(parts: Parts) -> Iterator[tuple[str, dict[str, float]]]:
    """The parts that are used, with all their parameters."""
    for name in type(parts).model_fields:
        section = getattr(parts, name)
        if section is not None:
            yield name, section.model_dump()


def _weighed(parts: Parts) -> Iterator[tuple[str, dict[str, float], float]]:
    for name, given in _given(parts):
        weight = given.pop("weight")
        yield name, given, weight
