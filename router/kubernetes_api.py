"""The Kubernetes API: a call, or a stream of lines, with the token of this moment.

Floor: an adapter around httpx. A service account's token is replaced every hour or so: its file is read for every call.
Certificates of authorities are read anew with every new connection pool (`renew`), which a failed call asks for.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from router.wire.kubernetes import read_refusal

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_LARGEST_ANSWER_BYTES = 64 * 1024 * 1024  # a page of 500 pods has some MB
_SHOWN = 300  # characters of what the API says
_LONGEST_PAUSE_SECONDS = 60.0  # that a busy API can ask for


class ApiFailed(Exception):
    """The call did not succeed. Its text is for the log. `status`: 0 without an answer; `cause`: one word for metrics;
    `retry_after`: seconds, where the API says so."""

    def __init__(self, text: str, cause: str, status: int = 0, retry_after: float = 0.0) -> None:
        super().__init__(text)
        self.cause = cause
        self.status = status
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """`url`, `token_file`, `ca_file`: None for those of the cluster in which this runs. `seconds`: for an answer.
    `token`, `context`: what somebody has read, as from a kubeconfig, in place of the files; an empty token is none."""

    url: str | None = None
    token_file: str | None = None
    ca_file: str | None = None
    seconds: float = 10.0
    token: str | None = None
    context: ssl.SSLContext | None = None


def cluster_url(environment: Mapping[str, str]) -> str | None:
    """The API server of the cluster in which this runs as a pod; None elsewhere."""
    host = environment.get("KUBERNETES_SERVICE_HOST")
    if not host:
        return None
    name = f"[{host}]" if ":" in host else host
    return f"https://{name}:{environment.get('KUBERNETES_SERVICE_PORT') or '443'}"


class KubernetesApi:
    """One client's connections. `environment`: where a pod finds its cluster; `account`: and its service account."""

    def __init__(
        self, settings: ApiSettings, environment: Mapping[str, str] = os.environ, account: Path = SERVICE_ACCOUNT
    ) -> None:
        self._settings = settings
        self._environment = environment
        self._account = account
        self._http: httpx2.AsyncClient | None = None

    async def renew(self) -> None:
        """Lets go of all connections; the next call makes new ones."""
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    async def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: tuple[str, bytes] | None = None,
    ) -> bytes:
        """The answer's body. `body`: its type and bytes. Raises ApiFailed."""
        try:
            async with asyncio.timeout(self._settings.seconds):
                async with self.stream(method, path, self._settings.seconds, params=params, body=body) as pieces:
                    return await _whole(pieces)
        except TimeoutError:
            raise ApiFailed("the API does not answer in time", "timeout") from None

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        silence: float,
        *,
        params: Mapping[str, str | int] | None = None,
        body: tuple[str, bytes] | None = None,
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The pieces of an answer, of which none may take longer than `silence` seconds. Raises ApiFailed."""
        headers = await asyncio.to_thread(self._credentials)
        if body is not None:
            headers["content-type"] = body[0]
        http = self._http
        if http is None:
            http = self._http = await asyncio.to_thread(self._client)
        limits = httpx2.Timeout(self._settings.seconds, read=silence)
        content = body[1] if body is not None else None
        try:
            async with http.stream(
                method, self._base() + path, params=params, headers=headers, content=content, timeout=limits
            ) as answer:
                if answer.status_code >= 300:
                    raise _refused(answer, await _beginning(answer))
                yield answer.aiter_bytes()
        except httpx2.TimeoutException:
            raise ApiFailed("the API does not answer in time", "timeout") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as error:
            raise ApiFailed(f"the API cannot be reached ({_reason(error)})", "unreachable") from None

    def _base(self) -> str:
        if self._settings.url is not None:
            return self._settings.url
        found = cluster_url(self._environment)
        if found is None:
            text = "no API is known: kubernetes.api_url is not set, and this is no pod (KUBERNETES_SERVICE_HOST)"
            raise ApiFailed(text, "unreachable")
        return found

    def _credentials(self) -> dict[str, str]:
        if self._settings.token is not None:
            return _bearer(self._settings.token) if self._settings.token else {}
        file = Path(self._settings.token_file) if self._settings.token_file is not None else self._account / "token"
        if self._settings.token_file is None and not file.exists():
            return {}
        try:
            token = file.read_text().strip()
        except (OSError, UnicodeDecodeError):
            raise ApiFailed("the token's file cannot be read", "credentials") from None
        return _bearer(token)

    def _client(self) -> httpx2.AsyncClient:
        """Reads authorities, which takes milliseconds."""
        if self._settings.context is not None:
            return httpx2.AsyncClient(verify=self._settings.context, trust_env=False, follow_redirects=False)
        found = self._settings.ca_file
        if found is None and self._settings.url is None and (self._account / "ca.crt").exists():
            found = str(self._account / "ca.crt")
        try:
            context = ssl.create_default_context(cafile=found)
        except (OSError, ssl.SSLError):
            raise ApiFailed("the file of authorities cannot be read", "credentials") from None
        return httpx2.AsyncClient(verify=context, trust_env=False, follow_redirects=False)


def _bearer(token: str) -> dict[str, str]:
    if not token or not token.isascii() or not token.isprintable():
        raise ApiFailed("the token's file holds no token", "credentials")
    return {"authorization": f"Bearer {token}"}


async def _whole(pieces: AsyncIterator[bytes]) -> bytes:
    data = bytearray()
    async for piece in pieces:
        data += piece
        if len(data) > _LARGEST_ANSWER_BYTES:
            raise ApiFailed("the API's answer is too long", "malformed")
    return bytes(data)


async def _beginning(answer: httpx2.Response) -> bytes:
    data = b""
    async for piece in answer.aiter_bytes():
        data += piece
        if len(data) > 64 * 1024:
            break
    return data


def _refused(answer: httpx2.Response, body: bytes) -> ApiFailed:
    status = answer.status_code
    said = "".join(one for one in read_refusal(body).message[:_SHOWN] if one.isprintable())
    cause = {401: "credentials", 403: "forbidden", 404: "missing", 410: "expired"}.get(status, "status")
    return ApiFailed(f"the API answered {status}{': ' if said else ''}{said}", cause, status, _pause(answer))


def _pause(answer: httpx2.Response) -> float:
    said: Any = answer.headers.get("retry-after", "")
    return min(float(said), _LONGEST_PAUSE_SECONDS) if said.isdecimal() else 0.0


def _reason(error: Exception) -> str:
    """The kind of failure; of a certificate, what is wrong with it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {cause.verify_message}"
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__
