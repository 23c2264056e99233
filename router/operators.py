"""Asking a running gateway by its operator plane, from the command line.

Floor: beside `router.config`, which says where the plane is. httpx is imported when it is needed: most commands ask
nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from router.config import Config

if TYPE_CHECKING:
    import httpx2

CONNECT_SECONDS = 5.0


class NoAnswer(Exception):
    """The gateway does not answer, or refuses; the message says which and why."""


def ask_operators(
    config: Config, path: str, data: bytes, *, params: Mapping[str, str] | None = None, seconds: float | None = 5.0
) -> httpx2.Response:
    """Its answer to a POST. `seconds`: how long it may take, None is for ever. Raises NoAnswer."""
    import httpx2

    host = config.server.admin_host
    url = f"http://{f'[{host}]' if ':' in host else host}:{config.server.admin_port}{path}"
    try:
        with httpx2.Client(trust_env=False, timeout=httpx2.Timeout(CONNECT_SECONDS, read=seconds)) as client:
            answer = client.post(url, params=params, content=data)
    except httpx2.HTTPError as error:
        raise NoAnswer(f"the gateway's operator plane at {url} does not answer: {error}") from None
    if answer.status_code != 200:
        raise NoAnswer(_said(answer))
    return answer


def _said(answer: httpx2.Response) -> str:
    """What a refusal says; something else than the gateway may answer on that port."""
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"{answer.url} answered {answer.status_code}, and not as a gateway does"
