"""Decoding of JSON fields with errors that name the field.

Floor: sans-IO.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from router.errors import BadRequest

Fields = dict[str, msgspec.Raw]
_T = TypeVar("_T")
_object = msgspec.json.Decoder(Fields)


def read_fields(data: bytes | msgspec.Raw) -> Fields:
    """The top level of a body. Raises BadRequest for anything but one JSON object."""
    try:
        return _object.decode(data)
    except msgspec.ValidationError as error:
        raise BadRequest(f"The request body must be a JSON object: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"The request body is not valid JSON: {error}.", code="invalid_json") from None
    except RecursionError:
        raise BadRequest("The request body is nested too deeply.", code="invalid_json") from None


def decode(decoder: msgspec.json.Decoder[_T], name: str, raw: msgspec.Raw) -> _T:
    """One field's value. Raises BadRequest whose `param` is the field, with the place inside it, that is wrong."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$")
        param = name + place.rstrip("`")
        raise BadRequest(f"Invalid value for '{param}': {reason}.", param=param) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest(f"The value of '{name}' is not valid JSON.", param=name, code="invalid_json") from None
