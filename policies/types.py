"""The nouns every decision is made of.

Floor: `policies` is pure. Nothing here waits, reads a clock or knows what a socket is; seconds are monotonic floats
handed in by the caller. Nothing here changes once it is made; what every request makes is not frozen all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Lane(StrEnum):
    """The class a request queues in."""

    SHORT = "short"
    LONG = "long"
    BATCH = "batch"


class Role(StrEnum):
    """When an endpoint serves: always (hot), when the hot ones cannot (warm), as a last resort (cold)."""

    HOT = "hot"
    WARM = "warm"
    COLD = "cold"


@dataclass(frozen=True, slots=True)
class Slo:
    """What a tier's requests shall get: `share` of the streams begin within `ttft_seconds`, and `availability`, another
    share, of all requests are answered. Shares lie between 0 and 1."""

    ttft_seconds: float
    share: float
    availability: float


@dataclass(frozen=True, slots=True)
class Tier:
    """A service class. `priority`: 0, 1, 2, ..., lower goes first. `rto_seconds`: the promised recovery time.

    `resume`: whether streams that an engine breaks off go on at another.
    At most `hold_requests` of its requests wait in a pool while a standby wakes, each for at most `hold_seconds`.
    """

    name: str
    priority: int
    rto_seconds: float
    resume: bool = False
    hold_seconds: float = 60.0
    hold_requests: int = 256
    slo: Slo | None = None


NO_TIER = Tier("", 0, 60.0)  # of requests that no tenant sent


@dataclass(frozen=True, slots=True)
class ModelRoute:
    """A name that a tenant's clients ask for, the pool that serves it and the name its engines know."""

    name: str
    pool: str
    engine_model: str


class Alone(StrEnum):
    """What a limit that replicas share does while their store cannot be reached: this replica's share of it goes on,
    all is allowed, or all is refused."""

    SHARE = "share"
    ALLOW = "allow"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Weights:
    """What one token counts towards a limit of tokens, by its kind."""

    input: float = 1.0
    output: float = 1.0
    cached: float = 1.0


@dataclass(frozen=True, slots=True)
class LimitSpec:
    """What a tenant, one of its models or one of its keys may use; None is no limit.

    `money_per_month` is in micro-units of the currency, so that sums are exact. `shadow`: count, refuse nothing.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    tokens_per_day: int | None = None
    money_per_month: int | None = None
    weights: Weights = Weights()
    without_redis: Alone = Alone.SHARE
    shadow: bool = False


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer or team. `cache_salt` keeps its prefixes apart in the engines' caches: hex, secret, never logged."""

    id: str
    tier: Tier
    cache_salt: str = field(repr=False)
    models: Mapping[str, ModelRoute]
    limits: LimitSpec = LimitSpec()
    weight: float = 1.0
    anonymous: bool = False


@dataclass(slots=True, init=False, unsafe_hash=True)
class InferenceRequest:
    """One request as decisions see it: never its text. Nothing changes it; that is not enforced, as a constructor of
    its own costs a tenth of a frozen dataclass's once compiled.

    `prompt_tokens` is an estimate; `prefix_blocks` are chained hashes, each standing for about `tokens_per_block`
    tokens. `max_output_tokens`: what the answer is expected to have, all `choices` (`n` for every prompt) together.
    `weight`: the tenant's, on a shared pool. Times are monotonic seconds.
    """

    id: str
    tenant: str
    tier_priority: int
    model: str
    api: str
    lane: Lane
    prompt_tokens: int
    max_output_tokens: int
    prefix_blocks: tuple[int, ...]
    tokens_per_block: float
    stream: bool
    arrived_at: float
    deadline: float
    session: str | None
    weight: float
    choices: int
    tier: Tier

    def __init__(
        self,
        id: str,
        tenant: str,
        tier_priority: int,
        model: str,
        api: str,
        lane: Lane,
        prompt_tokens: int,
        max_output_tokens: int,
        prefix_blocks: tuple[int, ...],
        tokens_per_block: float,
        stream: bool,
        arrived_at: float,
        deadline: float,
        session: str | None = None,
        weight: float = 1.0,
        choices: int = 1,
        tier: Tier = NO_TIER,
    ) -> None:
        self.id = id
        self.tenant = tenant
        self.tier_priority = tier_priority
        self.model = model
        self.api = api
        self.lane = lane
        self.prompt_tokens = prompt_tokens
        self.max_output_tokens = max_output_tokens
        self.prefix_blocks = prefix_blocks
        self.tokens_per_block = tokens_per_block
        self.stream = stream
        self.arrived_at = arrived_at
        self.deadline = deadline
        self.session = session
        self.weight = weight
        self.choices = choices
        self.tier = tier


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One engine's base URL as configured. `kv_capacity_tokens`: None means learn it from the engine's metrics."""

    name: str
    url: str
    role: Role = Role.HOT
    weight: float = 1.0
    hourly_cost: float = 0.0
    max_in_flight: int = 256
    kv_capacity_tokens: int | None = None
    name_bytes: bytes = field(init=False, repr=False, compare=False)  # the name as it is hashed, for every request

    def __post_init__(self) -> None:
        object.__setattr__(self, "name_bytes", self.name.encode())


@dataclass(frozen=True, slots=True)
class EngineModel:
    """A model that an engine says it serves. `max_model_len`: tokens of prompt and answer together, where it says."""

    name: str
    max_model_len: int | None = None


class RejectReason(StrEnum):
    """Every reason for which a policy says no."""

    NO_ENDPOINT = "no_endpoint"
    POOL_BUSY = "pool_busy"
    QUEUE_FULL = "queue_full"
    DEADLINE = "deadline"
    REQUESTS_PER_MINUTE = "requests_per_minute"
    TOKENS_PER_MINUTE = "tokens_per_minute"
    CONCURRENCY = "concurrency"
    TOKENS_PER_DAY = "tokens_per_day"
    MONEY_PER_MONTH = "money_per_month"
    LIMITS_UNAVAILABLE = "limits_unavailable"


@dataclass(frozen=True, slots=True)
class Rejection:
    """A normal "no". `retry_after`: seconds until asking again makes sense, None when that is unknown.

    `scope`: whose limit it was (tenant, key or model), where it was one. `never`: the same will be refused always.
    """

    reason: RejectReason
    retry_after: float | None = None
    detail: str = ""
    scope: str = ""
    never: bool = False


class FailureCause(StrEnum):
    """Why an attempt at an endpoint failed."""

    CONNECT = "connect"
    TIMEOUT = "timeout"
    CLOSED = "closed"
    PROTOCOL = "protocol"
    STATUS = "status"
    ENGINE_ABORT = "engine_abort"
    HUNG = "hung"


@dataclass(slots=True, init=False, unsafe_hash=True)
class Outcome:
    """What became of one attempt at an endpoint. Token counts are the engine's own, None where it gave none.

    `started`: a byte of the answer has reached the client. `status` is 0 when no response head arrived.
    """

    status: int
    failure: FailureCause | None
    started: bool
    ttft_seconds: float | None
    total_seconds: float | None
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None

    def __init__(
        self,
        status: int,
        failure: FailureCause | None = None,
        started: bool = False,
        ttft_seconds: float | None = None,
        total_seconds: float | None = None,
        prompt_tokens: int | None = None,
        cached_tokens: int | None = None,
        completion_tokens: int | None = None,
    ) -> None:
        self.status = status
        self.failure = failure
        self.started = started
        self.ttft_seconds = ttft_seconds
        self.total_seconds = total_seconds
        self.prompt_tokens = prompt_tokens
        self.cached_tokens = cached_tokens
        self.completion_tokens = completion_tokens
