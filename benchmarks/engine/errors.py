"""How the engine says no: vLLM's error bodies, with its types, params and exact sentences.

Floor: pure. `Refusal` is raised by whatever reads a request and turned into bytes in one place (`app.py`).
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

ENGINE_DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
BUSY = "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."
TYPES = {400: "BadRequestError", 404: "NotFoundError", 500: "InternalServerError"}
"""Types that are names of classes; every other status has its HTTP phrase as type."""


class Refusal(Exception):
    """One error answer. `type` None: what this status usually has."""

    def __init__(self, status: int, message: str, *, type: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type or TYPES.get(status) or HTTPStatus(status).phrase
        self.param = param

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.status}}

    def anthropic_body(self) -> dict[str, Any]:
        """The same on `/v1/messages`: Anthropic's frame around vLLM's own type."""
        return {"type": "error", "error": {"type": self.type, "message": self.message}}


class Unrouted(Exception):
    """No such route or method: the web framework's own body, not the engine's."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status
        self.detail = HTTPStatus(status).phrase


def failed_fields(errors: list[dict[str, Any]], source: str = "body") -> Refusal:
    """One refusal for a list of pydantic errors; `param` is the first one's place. `source`: body or query."""
    lines = [str(_one_field(error, source)) for error in errors]
    title = "1 validation error" if len(lines) == 1 else f"{len(lines)} validation errors"
    place = _place(source, errors[0]["loc"]) if errors else None
    return Refusal(400, "\n  ".join([f"{title}:", *lines]), type="Bad Request", param=place)


def _one_field(error: dict[str, Any], source: str) -> dict[str, Any]:
    shown = {
        "type": error["type"],
        "loc": _place(source, error["loc"]),
        "msg": error["msg"],
        "input": _short(error["input"]),
    }
    return shown | ({"ctx": error["ctx"]} if error.get("ctx") else {})


def _place(source: str, loc: tuple[int | str, ...]) -> str:
    return ".".join(map(str, (source, *loc)))


def _short(value: Any) -> Any:
    """Values with contents are named by their size: a prompt must not come back in an error."""
    return f"<{type(value).__name__} of {len(value)} items>" if isinstance(value, dict | list) else value


def bad_json(message: str, position: int) -> Refusal:
    error = {"type": "json_invalid", "loc": (position,), "msg": "JSON decode error", "input": {}}
    return failed_fields([error | {"ctx": {"error": message}}])


def bad_value(name: str, value: Any, message: str) -> Refusal:
    return Refusal(400, f"{message} (parameter={name}, value={value})", param=name)
