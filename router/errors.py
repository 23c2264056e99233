"""Every way a request can fail, whose fault it is, and whether another endpoint may try.

Floor: knows `policies` and nothing of ASGI or sockets; `wire` turns these into bytes.

    GatewayError
    ├── ClientError               source client
    │   ├── BadRequest            400 invalid_request
    │   ├── InvalidKey            401 invalid_api_key
    │   ├── Forbidden             403 wrong_tenant | scope_denied
    │   ├── NotFound              404 not_found | key_not_found | usage_off
    │   │   └── ModelNotFound     404 model_not_found
    │   ├── MethodNotAllowed      405 method_not_allowed
    │   ├── Conflict              409 key_conflict | keys_off
    │   ├── SlowRequest           408 request_timeout
    │   ├── BodyTooLarge          413 request_too_large
    │   └── HeadersTooLarge       431 headers_too_large
    ├── PolicyError               source policy
    │   ├── RateLimited           429 rate_limit_exceeded | insufficient_quota
    │   │   └── QueueFull         429 rate_limit_exceeded
    │   ├── ContentBlocked        400 content_policy_violation
    │   ├── GuardUnavailable      503 guard_unavailable
    │   ├── Overloaded            503 queue_full | deadline_exceeded | limits_unavailable | usage_busy
    │   └── NoEndpoint            503 no_endpoint
    ├── EngineError               source engine, retryable elsewhere
    │   ├── ConnectFailed         502 engine_unreachable
    │   ├── EngineTimeout         504 engine_timeout
    │   │   ├── ConnectTimeout    504 engine_timeout
    │   │   └── TotalTimeout      504 engine_timeout
    │   ├── EngineHung            504 engine_hung
    │   ├── EngineAborted         502 engine_aborted
    │   ├── EngineClosed          502 engine_closed
    │   ├── BadEngineResponse     502 bad_engine_response
    │   │   └── EngineDiverged    502 bad_engine_response
    │   └── EngineStatus          the engine's own 5xx answer
    ├── DatabaseUnavailable       503 database_unavailable, source gateway
    ├── WorkerUnavailable         503 worker_unavailable, source gateway
    ├── StreamInterrupted         502 stream_interrupted, source engine
    └── InternalError             500 internal_error, source gateway
"""

from __future__ import annotations

from typing import ClassVar, Literal

from policies.types import FailureCause

Source = Literal["client", "policy", "engine", "gateway"]
TurnedAway = Literal["limit", "rule", "full", "deadline"]


class GatewayError(Exception):
    """The root. `message` is for the client and names no other tenant, endpoint or file.

    `param` is the offending field, `retry_after` the seconds after which a new try makes sense. `final` asks SDKs not
    to retry (`x-should-retry: false`).
    """

    status: ClassVar[int] = 500
    type: str = "api_error"
    code: str = "internal_error"
    source: ClassVar[Source] = "gateway"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        final: bool = False,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        self.final = final
        self.headers = headers
        if code is not None:
            self.code = code

    @property
    def turned_away(self) -> TurnedAway | None:
        """What kept a request from being served that was right and might have been: a limit or a content rule of its
        tenant, a lane that is full, or its deadline."""
        return None


class ClientError(GatewayError):
    source = "client"
    type = "invalid_request_error"


class BadRequest(ClientError):
    status = 400
    code = "invalid_request"


class InvalidKey(ClientError):
    status = 401
    code = "invalid_api_key"


class Forbidden(ClientError):
    status = 403
    code = "wrong_tenant"


class NotFound(ClientError):
    status = 404
    code = "not_found"


class ModelNotFound(NotFound):
    """The same answer for a model that nobody has and for one of another tenant; no other model is named."""

    code = "model_not_found"

    @classmethod
    def named(cls, model: str) -> ModelNotFound:
        """For the name that a client sent: its own words, and perhaps as long as a body."""
        return cls(f"The model '{model[:200]}' does not exist or you do not have access to it.", param="model")


class MethodNotAllowed(ClientError):
    status = 405
    code = "method_not_allowed"


class Conflict(ClientError):
    """What is there already, or not in use, stands against it."""

    status = 409
    code = "key_conflict"


class SlowRequest(ClientError):
    status = 408
    code = "request_timeout"


class BodyTooLarge(ClientError):
    status = 413
    code = "request_too_large"


class HeadersTooLarge(ClientError):
    status = 431
    code = "headers_too_large"


class PolicyError(GatewayError):
    source = "policy"


class RateLimited(PolicyError):
    """`kind` becomes the error's type, as OpenAI has it. `limit`: which one it was, for a header."""

    status = 429
    code = "rate_limit_exceeded"

    def __init__(
        self,
        message: str,
        *,
        kind: Literal["requests", "tokens", "insufficient_quota"],
        code: str | None = None,
        retry_after: float | None = None,
        final: bool = False,
        limit: str = "",
    ) -> None:
        headers = ((b"x-promptlane-limit", limit.encode()),) if limit else ()
        super().__init__(message, code=code, retry_after=retry_after, final=final, headers=headers)
        self.type = kind

    @property
    def turned_away(self) -> TurnedAway | None:
        return "limit"


class QueueFull(RateLimited):
    """No room to wait, told to the client as a limit: it slows down, and no ingress takes the gateway for broken."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message, kind="requests", retry_after=retry_after)

    @property
    def turned_away(self) -> TurnedAway | None:
        return "full"


class ContentBlocked(PolicyError):
    """A rule of the tenant's found what it forbids, in the prompt or in the answer."""

    status = 400
    type = "invalid_request_error"
    code = "content_policy_violation"

    @classmethod
    def by(cls, rule: str, what: Literal["prompt", "answer"]) -> ContentBlocked:
        """`rule`: its name."""
        return cls(f"The {what} was blocked by the content rule '{rule}'.", final=True)

    @property
    def turned_away(self) -> TurnedAway | None:
        return "rule"


class GuardUnavailable(PolicyError):
    """A rule of the tenant's could not examine the prompt or the answer, and lets nothing through unseen."""

    status = 503
    type = "service_unavailable_error"
    code = "guard_unavailable"

    @classmethod
    def of(cls, rule: str) -> GuardUnavailable:
        """`rule`: its name."""
        return cls(f"The content rule '{rule}' cannot be applied now.", retry_after=1.0)


class Overloaded(PolicyError):
    """The same told to whoever stands between, who may try another gateway; or the wait was in vain."""

    status = 503
    type = "overloaded_error"
    code = "queue_full"

    @classmethod
    def at_deadline(cls, retry_after: float) -> Overloaded:
        """The request's time was up before an endpoint had room."""
        message = "No endpoint had room for this request in time."
        return cls(message, code="deadline_exceeded", retry_after=retry_after)

    @property
    def turned_away(self) -> TurnedAway | None:
        return "full" if self.code == "queue_full" else "deadline" if self.code == "deadline_exceeded" else None


def queue_full(status: Literal[429, 503], retry_after: float) -> QueueFull | Overloaded:
    """The refusal of a request that finds no room to wait, with the status that its lane is configured to answer.

    `retry_after`: seconds until those that wait now will have been served.
    """
    message = "Too many requests are waiting for this model."
    if status == 429:
        return QueueFull(message, retry_after=retry_after)
    return Overloaded(message, retry_after=retry_after)


class NoEndpoint(PolicyError):
    status = 503
    type = "service_unavailable_error"
    code = "no_endpoint"


class EngineError(GatewayError):
    """An attempt at an endpoint failed. Another endpoint may try while no byte has reached the client."""

    source = "engine"
    retryable = True
    status = 502
    cause: ClassVar[FailureCause] = FailureCause.CLOSED


class ConnectFailed(EngineError):
    code = "engine_unreachable"
    cause = FailureCause.CONNECT


class EngineTimeout(EngineError):
    status = 504
    code = "engine_timeout"
    cause = FailureCause.TIMEOUT


class ConnectTimeout(EngineTimeout):
    """No connection in time: the engine has got nothing of the request."""

    cause = FailureCause.CONNECT


class TotalTimeout(EngineTimeout):
    """The engine works, but the whole exchange has had its time: there is none left for another engine either."""


class EngineHung(EngineError):
    """The engine makes no progress though it says that it is well: what it had is taken away from it."""

    status = 504
    code = "engine_hung"
    cause = FailureCause.HUNG


class EngineAborted(EngineError):
    """The engine gave the request up by itself: an `abort` ending, or an error where an answer was due."""

    code = "engine_aborted"
    cause = FailureCause.ENGINE_ABORT


class EngineClosed(EngineError):
    code = "engine_closed"
    cause = FailureCause.CLOSED


class BadEngineResponse(EngineError):
    code = "bad_engine_response"
    cause = FailureCause.PROTOCOL


class EngineDiverged(BadEngineResponse):
    """An engine that was to say again what the client has of a stream says something else: no fault of the engine."""

    @classmethod
    def at_the_seam(cls) -> EngineDiverged:
        return cls("The engine continued this answer with other words.")


class EngineStatus(EngineError):
    """The engine answered with a 5xx before any output: its answer is kept, for the case that no other engine helps."""

    code = "engine_error"
    cause = FailureCause.STATUS

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        super().__init__("The engine failed on this request.")
        self.engine_status = status
        self.engine_headers = headers
        self.engine_body = body


class StreamInterrupted(GatewayError):
    """An engine failed in the middle of an answer whose beginning the client has, and nobody could go on with it."""

    source = "engine"
    status = 502
    code = "stream_interrupted"

    @classmethod
    def for_good(cls) -> StreamInterrupted:
        return cls("The engine failed in the middle of this answer, and it could not be continued.")


class DatabaseUnavailable(GatewayError):
    """What was asked for needs the database, and it is away. No request for an engine fails so."""

    status = 503
    type = "service_unavailable_error"
    code = "database_unavailable"


class WorkerUnavailable(GatewayError):
    """Operators only: no worker serves at the moment, or the one that was asked does not answer."""

    status = 503
    code = "worker_unavailable"


class InternalError(GatewayError):
    status = 500
