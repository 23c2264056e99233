"""The configuration: its models, how a file and the environment become one, and what its keys mean.

Floor: YAML and environment in, one frozen `Config` out, or one `ConfigError` with every mistake. Nothing here opens
what the values name (files, URLs, variables aside); `assembly` does. A new key is one field here: its type, bounds,
default and description are what the check, the messages and the README's table all read. Times are seconds.

In a file, an empty section (`tenants:` with nothing below) means its defaults; an empty value is a mistake.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from policies.types import Role
from router.config_check import (
    DEFAULT_ADMIN_PORT,
    DEFAULT_PORT,
    DEFAULT_TIER,
    VARIABLE_NAME,
    Expect,
    Network,
    cross_check,
    describe,
    engine_url,
    explain,
    fill_engine_keys,
    host_name,
    moment,
    network,
    no_bool,
    origin,
)
from router.config_yaml import NESTING, PREFIX, SECRET_PATH, Problem, overlay, parse, read_file

MIN_SECRET_LENGTH = 32  # characters; salts derived from less could be guessed
DAY = 86_400.0  # seconds; no wait of a gateway is longer

Profile: TypeAlias = Literal["prompt-aware", "least-outstanding", "round-robin", "random"]
ApiName: TypeAlias = Literal[
    "chat", "completions", "embeddings", "responses", "messages", "rerank", "score", "tokenize", "models"
]
KNOWN_PROFILES: tuple[str, ...] = get_args(Profile)
API_NAMES: tuple[str, ...] = get_args(ApiName)


def _text(pattern: str, what: str) -> tuple[AfterValidator, Expect]:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError
        return text

    return AfterValidator(check), Expect(what)


def _secret(accepts: Callable[[str], bool], what: str) -> tuple[AfterValidator, Expect]:
    def check(secret: SecretStr) -> SecretStr:
        if not accepts(secret.get_secret_value()):
            raise ValueError
        return secret

    return AfterValidator(check), Expect(what)


_number = BeforeValidator(no_bool)
Port: TypeAlias = Annotated[int, _number, Ge(0), Le(65535)]
Count: TypeAlias = Annotated[int, _number, Ge(1), Le(2**53)]
Bytes: TypeAlias = Annotated[int, _number, Ge(1024), Le(2**40)]
Seconds: TypeAlias = Annotated[float, _number, Gt(0), Le(DAY)]
SecondsOrNone: TypeAlias = Annotated[float, _number, Ge(0), Le(DAY)]  # where 0 means: do not wait
Weight: TypeAlias = Annotated[float, _number, Gt(0), Le(1e6)]
Share: TypeAlias = Annotated[float, _number, Gt(0), Le(1)]

_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_TENANT_ID = "a name of letters a-z, digits and inner hyphens, at most 63 characters (a DNS label)"
_NAME = "a name of letters, digits, dots, hyphens and underscores, at most 128 characters"
# ASCII without quotation marks and backslashes: the name stands in JSON as it is, so rewriting an alias is a
# replacement of bytes.
_MODEL_NAME = "a name of 1 to 256 printable ASCII characters without quotation marks, backslashes and outer spaces"
TenantId: TypeAlias = Annotated[str, *_text(_LABEL, _TENANT_ID)]
TierName: TypeAlias = Annotated[str, *_text(r"[a-z0-9][a-z0-9_-]{0,62}", "a name of a-z, 0-9, - and _")]
Name: TypeAlias = Annotated[str, *_text(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", _NAME)]
ModelName: TypeAlias = Annotated[str, *_text(r"(?! )[ !#-\[\]-~]{1,256}(?<! )", _MODEL_NAME)]
Host: TypeAlias = Annotated[str, AfterValidator(host_name), Expect("a host such as llm.example.com, without port")]
BindHost: TypeAlias = Annotated[str, *_text(r"[A-Za-z0-9.:_-]{1,253}", "an address or host name to listen on")]
FileName: TypeAlias = Annotated[str, *_text(r"[^\0]{1,4096}", "a file name")]
HeaderName: TypeAlias = Annotated[
    str, AfterValidator(str.lower), *_text(r"[a-z0-9-]{1,64}", "a header name: letters, digits and hyphens")
]
Variable: TypeAlias = Annotated[str, *_text(VARIABLE_NAME, "the name of an environment variable")]
Sha256: TypeAlias = Annotated[
    str, AfterValidator(str.lower), *_text(r"[0-9a-f]{64}", "64 hexadecimal digits (in quotes if all are decimal)")
]
Expiry: TypeAlias = Annotated[
    datetime | None, PlainValidator(moment), Expect("a date, a time with its zone (2027-01-31T12:00:00Z) or null")
]
Proxy: TypeAlias = Annotated[Network, PlainValidator(network), Expect("an IP network such as 10.0.0.0/8")]
Origin: TypeAlias = Annotated[str, AfterValidator(origin), Expect('"*" or an origin such as https://app.example.com')]
EngineUrl: TypeAlias = Annotated[
    str, AfterValidator(engine_url), Expect("a URL http(s)://host[:port][/path] without query and user info")
]
RedisUrl: TypeAlias = Annotated[
    str, *_text(r"(redis|rediss|unix)://[\x21-\x7e]+", "a URL redis://…, rediss://… or unix://…")
]
LedgerUrl: TypeAlias = Annotated[
    str, *_text(r"(sqlite:///|postgresql://)[\x21-\x7e]+", "a URL sqlite:///… or postgresql://…")
]
ServerSecret: TypeAlias = Annotated[
    SecretStr, *_secret(lambda text: len(text) >= MIN_SECRET_LENGTH, f"text of at least {MIN_SECRET_LENGTH} characters")
]
EngineKey: TypeAlias = Annotated[
    SecretStr, *_secret(lambda text: bool(re.fullmatch(r"[\x21-\x7e]{1,4096}", text)), "printable ASCII without spaces")
]


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


class CorsConfig(Section):
    allow_origins: Annotated[tuple[Origin, ...], MinLen(1)] = Field(description="Origins whose pages may call.")
    allow_credentials: bool = Field(
        default=False, description="Whether browsers may send cookies; not with origin `*`."
    )
    max_age: Annotated[int, _number, Ge(0), Le(86400)] = Field(
        default=600, description="Seconds for which a browser may keep the answer to a preflight request."
    )


class TlsConfig(Section):
    cert_file: FileName = Field(description="The certificate chain, PEM.")
    key_file: FileName = Field(description="Its private key, PEM.")


class ServerConfig(Section):
    host: BindHost = Field(default="127.0.0.1", description="Address that tenants reach.")
    port: Port = Field(default=DEFAULT_PORT, description="Port for tenants; 0 picks a free one.")
    admin_host: BindHost = Field(default="127.0.0.1", description="Address of the operator plane.")
    admin_port: Port = Field(
        default=DEFAULT_ADMIN_PORT,
        description="Port for metrics, health, state and reload; never tenants' port; 0 as above.",
    )
    base_domain: Host | None = Field(default=None, description="Tenant `acme` is also reached as `acme.<base_domain>`.")
    routing_headers: bool = Field(
        default=True, description="Whether answers carry x-promptlane-lane, -endpoint, -cached-tokens and -queue-ms."
    )
    secret: ServerSecret | None = Field(
        default=None, description="What cache salts derive from, the same on every replica. Only by PROMPTLANE_SECRET."
    )
    secret_file: FileName = Field(
        default="promptlane.secret",
        description="File with that secret where PROMPTLANE_SECRET is not set; made on first start if missing.",
    )
    trusted_proxies: tuple[Proxy, ...] = Field(
        default=(), description="Networks whose x-forwarded-host and x-forwarded-for are believed."
    )
    cors: CorsConfig | None = Field(default=None, description="Cross-origin calls from browsers; null refuses them.")
    max_body_bytes: Bytes = Field(default=33_554_432, description="Longest request body; longer is 413.")
    max_header_bytes: Bytes = Field(default=65_536, description="Longest request head; longer is 431.")
    header_timeout: Seconds = Field(default=10.0, description="Seconds for the whole request head; then 408.")
    body_timeout: Seconds = Field(default=30.0, description="Seconds for the whole request body; then 408.")
    keep_alive_timeout: Seconds = Field(
        default=75.0, description="Seconds for which an idle client connection stays open."
    )
    shutdown_grace: SecondsOrNone = Field(default=30.0, description="Seconds that requests under way get to finish.")
    shutdown_delay: SecondsOrNone = Field(
        default=0.0,
        description="Seconds between readiness off and closing the listener: time for a balancer to notice.",
    )
    tls: TlsConfig | None = Field(default=None, description="Serve tenants by TLS; null leaves that to the ingress.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that is logged."
    )
    log_format: Literal["text", "json"] = Field(default="text", description="Lines for people or for a log store.")


class StateConfig(Section):
    redis_url: RedisUrl | None = Field(
        default=None, repr=False, description="State shared by replicas; null: one process, in memory."
    )
    ledger_url: LedgerUrl | None = Field(
        default=None, repr=False, description="Where records are kept; null: in memory."
    )


class ClassifyConfig(Section):
    long_prompt_tokens: Count = Field(
        default=2048, description="Prompts of more tokens than this are long. Also by PROMPT_TOKEN_THRESHOLD."
    )
    batch_prompts: Count = Field(default=8, description="A request with at least this many prompts or inputs is batch.")
    batch_n: Count = Field(default=4, description="A request for more than this many choices (`n`) is batch.")
    batch_header: HeaderName = Field(default="x-promptlane-lane", description="Request header that asks for a lane.")


class RoutingConfig(Section):
    profile: Profile = Field(
        default="prompt-aware",
        description="How endpoints are chosen. ENABLE_KV_AWARE_ROUTING=false selects least-outstanding.",
    )
    max_waiting: Annotated[int, _number, Ge(1), Le(1_000_000)] = Field(
        default=1024, description="Requests that may wait per pool."
    )
    max_wait: Seconds = Field(default=60.0, description="Seconds that a request may wait for an endpoint.")
    index_share: Share = Field(
        default=0.85, description="Share of an engine's KV capacity that the prefix index assumes is still held."
    )
    block_bytes: Annotated[int, _number, Ge(64), Le(4096)] = Field(
        default=256, description="Bytes of canonical prompt per prefix block."
    )
    default_kv_tokens: Count = Field(
        default=100_000, description="KV capacity of an engine, in tokens, until it is configured or scraped."
    )
    default_output_tokens: Count = Field(
        default=256, description="Expected length of an answer, in tokens, where a client gives no bound."
    )


class TierConfig(Section):
    priority: Annotated[int, _number, Ge(0), Le(1_000_000)] = Field(description="Lower goes first.")
    rto_seconds: Seconds = Field(description="Seconds within which a standby takes over.")


DEFAULT_TIERS: Mapping[str, TierConfig] = {
    "platinum": TierConfig(priority=0, rto_seconds=5),
    "gold": TierConfig(priority=10, rto_seconds=15),
    "silver": TierConfig(priority=20, rto_seconds=60),
}


class LimitsConfig(Section):
    requests_per_minute: Count | None = Field(default=None, description="Requests a minute; null: no limit.")
    tokens_per_minute: Count | None = Field(
        default=None, description="Tokens a minute, prompt and answer; null: no limit."
    )
    concurrency: Count | None = Field(default=None, description="Requests under way at once; null: no limit.")


class ApiKeyConfig(Section):
    id: Name = Field(description="The key's name in records and metrics.")
    sha256: Sha256 = Field(repr=False, description="SHA-256 of the key, hexadecimal; the key itself is never stored.")
    expires: Expiry = Field(
        default=None, description="When the key stops to work; a date is its first moment, 00:00 UTC."
    )
    models: tuple[ModelName, ...] | None = Field(default=None, description="Models the key may ask for; null: all.")
    apis: tuple[ApiName, ...] | None = Field(default=None, description="APIs the key may call; null: all.")


class ModelConfig(Section):
    pool: Annotated[str, Expect("the name of a pool")] = Field(description="The pool that serves this model.")
    engine_model: ModelName = Field(
        default="",
        description="The name its engines know; the model's own if not given.",
        json_schema_extra={"shown": "<name>"},
    )


class TenantConfig(Section):
    tier: Annotated[str, Expect("the name of a tier")] = Field(
        default=DEFAULT_TIER, description="Its service class, one of `tiers`."
    )
    hosts: tuple[Host, ...] = Field(default=(), description="Host names that are this tenant's.")
    anonymous: bool = Field(default=False, description="Whether its hosts serve requests without a key.")
    weight: Weight = Field(default=1.0, description="Its share beside other tenants of a shared pool.")
    limits: LimitsConfig = Field(default=LimitsConfig(), description="What it may use.")
    api_keys: tuple[ApiKeyConfig, ...] = Field(default=(), description="Its keys; `promptlane keys create` makes one.")
    models: dict[ModelName, ModelConfig] = Field(default={}, description="Names its clients may ask for.")

    @model_validator(mode="before")
    @classmethod
    def _engines_know_a_model_by_its_own_name(cls, data: Any) -> Any:
        models = data.get("models") if isinstance(data, dict) else None
        if not isinstance(models, dict):
            return data
        named = {
            name: {"engine_model": name, **model} if isinstance(model, dict) else model
            for name, model in models.items()
        }
        return {**data, "models": named}


class EndpointConfig(Section):
    name: Name = Field(description="Its name in answers, records and metrics; unique.")
    url: EngineUrl = Field(description="The engine's base URL, without `/v1`.")
    role: Role = Field(default=Role.HOT, description="When it serves: always, as first or as last standby.")
    weight: Weight = Field(default=1.0, description="How much it takes beside the others; 2 takes twice as much.")
    hourly_cost: Annotated[float, _number, Ge(0), Le(1e6)] = Field(
        default=0.0, description="Cost per hour, any currency."
    )
    max_in_flight: Count = Field(default=256, description="Requests that it gets at once.")
    kv_capacity_tokens: Count | None = Field(
        default=None, description="Its KV capacity in tokens; null: from its metrics."
    )


class TimeoutsConfig(Section):
    connect: Seconds = Field(default=5.0, description="Seconds to connect to an engine.")
    first_byte: Seconds = Field(default=300.0, description="Seconds from request sent to the answer's first byte.")
    idle: Seconds = Field(default=60.0, description="Seconds between two pieces of an answer.")
    total: Seconds = Field(default=3600.0, description="Seconds for one attempt as a whole.")


class EngineTlsConfig(Section):
    ca_file: FileName | None = Field(
        default=None, description="Authorities that sign the engines, PEM; null: the system's."
    )
    verify: bool = Field(default=True, description="Whether an engine's certificate is checked.")


class HealthConfig(Section):
    interval: Seconds = Field(default=2.0, description="Seconds between two probes of an endpoint.")
    timeout: Seconds = Field(default=2.0, description="Seconds that a probe may take.")
    unhealthy_after: Count = Field(default=2, description="Failed probes in a row until an endpoint gets nothing.")
    healthy_after: Count = Field(default=1, description="Good probes in a row until it serves again.")
    scrape_interval: Seconds = Field(default=2.0, description="Seconds between two reads of an engine's metrics.")


class PoolConfig(Section):
    shared: bool = Field(default=False, description="Whether several tenants may name this pool.")
    endpoints: Annotated[tuple[EndpointConfig, ...], MinLen(1)] = Field(description="Its engines, at least one.")
    timeouts: TimeoutsConfig = Field(default=TimeoutsConfig(), description="How long engines may take.")
    retries: Annotated[int, _number, Ge(0), Le(10)] = Field(
        default=2, description="Further attempts elsewhere before the first byte of an answer."
    )
    engine_api_key: EngineKey | None = Field(
        default=None, description="Key that engines ask for (`vllm serve --api-key`)."
    )
    engine_api_key_env: Variable | None = Field(
        default=None, description="Environment variable that holds that key instead."
    )
    tls: EngineTlsConfig = Field(default=EngineTlsConfig(), description="TLS to `https` engines.")
    health: HealthConfig = Field(default=HealthConfig(), description="How endpoints are watched.")


class Config(Section):
    """The whole. Build it by `load`: only that reads the environment and checks what holds between values."""

    server: ServerConfig = Field(default=ServerConfig(), description="Listeners and bounds of requests.")
    state: StateConfig = Field(default=StateConfig(), description="Where state is kept.")
    classify: ClassifyConfig = Field(default=ClassifyConfig(), description="Which lane a request queues in.")
    routing: RoutingConfig = Field(default=RoutingConfig(), description="How endpoints are chosen.")
    tiers: dict[TierName, TierConfig] = Field(
        default=dict(DEFAULT_TIERS), description="Service classes; what is not given here keeps its default."
    )
    tenants: dict[TenantId, TenantConfig] = Field(default={}, description="Who is served.")
    pools: dict[Name, PoolConfig] = Field(default={}, description="What serves.")

    @model_validator(mode="before")
    @classmethod
    def _default_tiers_stay(cls, data: Any) -> Any:
        given = data.get("tiers") if isinstance(data, dict) else None
        if not isinstance(given, dict):
            return data
        merged: dict[str, Any] = {name: tier.model_dump() for name, tier in DEFAULT_TIERS.items()}
        for name, tier in given.items():
            merged[name] = {**merged.get(name, {}), **tier} if isinstance(tier, dict) else tier
        return {**data, "tiers": merged}


class _Environment(BaseSettings, Config):
    """Names the keys for the environment reader; never instantiated, so no variable is read behind `load`'s back."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter=NESTING)


class ConfigError(Exception):
    """Every mistake of a configuration, in the order of the file; those of the environment come last."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


def load(path: str | Path, environ: Mapping[str, str] | None = None) -> Config:
    """The configuration of a file and the environment (this process's by default); raises `ConfigError`."""
    data = read_file(Path(path))
    if isinstance(data, Problem):
        raise ConfigError([data])
    return loads(data, environ, name=str(path))


def loads(data: bytes, environ: Mapping[str, str] | None = None, *, name: str = "configuration") -> Config:
    """`load` for bytes at hand. `name` is what problems of the file as a whole are called by."""
    environ = os.environ if environ is None else environ
    tree = parse(data, name)
    if not tree.readable:
        raise ConfigError(tree.problems)
    server = tree.root.get("server")
    if isinstance(server, dict) and "secret" in server:
        del server["secret"]
        tree.problems.append(tree.problem(SECRET_PATH, "put it in PROMPTLANE_SECRET or server.secret_file"))
    overlay(tree, _Environment, environ)
    found = [*fill_engine_keys(tree, environ), *cross_check(tree, DEFAULT_TIERS)]
    config: Config | None = None
    try:
        config = Config.model_validate(tree.root)
    except ValidationError as error:
        found = [*explain(error, Config, tree), *found]
    problems = [*tree.problems, *(problem for problem in found if not _follows(problem, tree.refused))]
    if config is None or problems:
        raise ConfigError(_in_order(problems))
    return config


def _follows(problem: Problem, refused: set[str]) -> bool:
    """Whether it stands at or below a place whose text could not be read."""
    return any(problem.path[: end.start()] in refused for end in re.finditer(r"[.\[]|\Z", problem.path))


def _in_order(problems: list[Problem]) -> list[Problem]:
    return sorted(dict.fromkeys(problems), key=lambda problem: (problem.line is None, problem.line or 0))


def warnings(config: Config, now: datetime) -> list[Problem]:
    """What is allowed and probably not meant. `now` is an aware time."""
    return [Problem(path, message) for path, message in _warnings(config, now)]


def _warnings(config: Config, now: datetime) -> Iterator[tuple[str, str]]:
    for name in ("redis_url", "ledger_url"):
        if getattr(config.state, name) is not None:
            yield f"state.{name}", "accepted; this version keeps this state in memory"
    if not config.tenants:
        yield "tenants", "there are none: every request will be refused"
    for tenant_id, tenant in config.tenants.items():
        if not tenant.models:
            yield f"tenants.{tenant_id}.models", "there are none: this tenant can ask for nothing"
        for index, key in enumerate(tenant.api_keys):
            if key.expires is not None and key.expires <= now:
                yield f"tenants.{tenant_id}.api_keys[{index}].expires", f"the key expired at {key.expires.isoformat()}"
    used = {model.pool for tenant in config.tenants.values() for model in tenant.models.values()}
    for name, pool in config.pools.items():
        if name not in used:
            yield f"pools.{name}", "no tenant uses this pool"
        if all(endpoint.role is not Role.HOT for endpoint in pool.endpoints):
            yield f"pools.{name}.endpoints", "none is hot: standbys will serve everything"
        for place, endpoint in enumerate(pool.endpoints):
            if endpoint.url.endswith("/v1"):
                yield f"pools.{name}.endpoints[{place}].url", "ends in /v1, which Promptlane adds itself"


@dataclass(frozen=True, slots=True)
class KeyDoc:
    """One key for the docs. `path` has placeholders (`tenants.<id>.tier`, `endpoints[].url`); all are words."""

    path: str
    type: str
    default: str
    description: str


def documented_keys() -> list[KeyDoc]:
    """Every key of the file in its order. A section that always exists has no row of its own; its keys have."""
    return list(_documented(Config, ""))


def _documented(model: type[BaseModel], prefix: str) -> Iterator[KeyDoc]:
    for key, field in model.model_fields.items():
        path = prefix + key
        inner, below = _section_of(field, path)
        if inner is None or below != f"{path}." or (not field.is_required() and field.default is None):
            words = describe(field.rebuild_annotation())
            words = words.replace(", each a mapping", " mapping" if "at least" in words else " of mappings")
            yield KeyDoc(path, words, _shown_default(field), field.description or "")
        if inner is not None:
            yield from _documented(inner, below)


def _section_of(field: FieldInfo, path: str) -> tuple[type[BaseModel] | None, str]:
    """The model below a field, if any, and the prefix of its keys' paths."""
    kind: Any = field.annotation
    if get_origin(kind) is dict:
        kind, below = get_args(kind)[1], f"{path}.{'<id>' if path == 'tenants' else '<name>'}."
    elif get_origin(kind) is tuple:
        kind, below = get_args(kind)[0], f"{path}[]."
    else:
        kind, below = next((part for part in get_args(kind) if part is not type(None)), kind), f"{path}."
    is_model = isinstance(kind, type) and issubclass(kind, BaseModel)
    return (kind if is_model else None), below


def _shown_default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if isinstance(field.json_schema_extra, dict):
        return str(field.json_schema_extra["shown"])
    default = field.default
    if isinstance(default, Enum):
        return str(default.value)
    if isinstance(default, dict):
        return ", ".join(default) or "{}"
    if isinstance(default, float):
        return f"{default:.15g}"
    return {"None": "null", "True": "true", "False": "false", "()": "[]"}.get(str(default), str(default))
