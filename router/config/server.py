"""The sections of the gateway itself: `server`, `state`, `replicas` and `classify`.

Floor: keys only; a field's type, bounds, default and description are all there is to say of it. Times are seconds.
"""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Le, MinLen
from pydantic import Field

from router.config.section import Section
from router.config.types import (
    NO_BOOL,
    BindHost,
    Bytes,
    Count,
    EngineUrl,
    FileName,
    HeaderName,
    Host,
    KeyPrefix,
    LeaseSeconds,
    LedgerUrl,
    LinkAddress,
    Origin,
    Port,
    Proxy,
    RedisUrl,
    Seconds,
    SecondsOrNone,
    ServerSecret,
    Workers,
)

DEFAULT_PORT = 8080
DEFAULT_ADMIN_PORT = 9090
DEFAULT_LEDGER_URL = "sqlite:///promptlane.db"
DEFAULT_LINK_PORT = 8090
_LEAST_WORKER_TIMEOUT = 5.0  # seconds: a busy machine keeps a process that is well waiting for some


class CorsConfig(Section):
    allow_origins: Annotated[tuple[Origin, ...], MinLen(1)] = Field(description="Origins whose pages may call.")
    allow_credentials: bool = Field(
        default=False, description="Whether browsers may send cookies; not with origin `*`."
    )
    max_age: Annotated[int, NO_BOOL, Ge(0), Le(86400)] = Field(
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
    workers: Workers = Field(
        default=1,
        description="Processes that serve, on the same ports and as one: about one per core. They share queues and "
        "limits, without Redis too.",
    )
    worker_timeout: Annotated[float, NO_BOOL, Ge(_LEAST_WORKER_TIMEOUT)] = Field(
        default=30.0,
        description="Seconds without a sign of life (one is due every half second) after which a worker is killed and "
        "another started; from 2 s on others take the connections that come in for it. At least 5.",
    )
    base_domain: Host | None = Field(default=None, description="Tenant `acme` is also reached as `acme.<base_domain>`.")
    routing_headers: bool = Field(
        default=True, description="Whether answers say by x-promptlane-* headers where they come from and why."
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
    ready_when: Literal["serving", "engines", "compared"] = Field(
        default="compared",
        description="What /readyz takes for ready: `serving`: it serves; `engines`: and it reaches an engine of any "
        "pool; `compared`: and it reaches one, or no other replica does: engines that all fail take no gateway out of "
        "a balancer, so that clients get its own errors.",
    )
    shutdown_grace: SecondsOrNone = Field(default=30.0, description="Seconds that requests under way get to finish.")
    shutdown_delay: SecondsOrNone = Field(
        default=0.0,
        description="Seconds between readiness off and closing the listener: time for a balancer to notice. Requests "
        "are served meanwhile; each answer says `connection: close`.",
    )
    tls: TlsConfig | None = Field(default=None, description="Serve tenants by TLS; null leaves that to the ingress.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that is logged."
    )
    log_format: Literal["text", "json"] = Field(default="text", description="Lines for people or for a log store.")
    access_log: FileName | None = Field(
        default=None,
        description="File that gets a line of JSON for each request of a tenant; `-`: standard output; null: none is "
        "written.",
    )


class StateConfig(Section):
    redis_url: RedisUrl | None = Field(
        default=None,
        repr=False,
        description="Redis or Valkey by which replicas share the pools, each decided for by one of them at a time; "
        "null: this machine is alone.",
    )
    replicas: Count = Field(
        default=1,
        description="Replicas that share limits, at least: what one that cannot reach Redis takes its share by; each "
        "with its server.workers. More are seen by themselves.",
    )
    ledger_url: LedgerUrl | None = Field(
        default=None,
        repr=False,
        description="The database: keys made at run time (`keys`) and records (`ledger`). SQLite for one machine.",
    )
    ledger_timeout: Seconds = Field(
        default=5.0, description="Seconds that the database may take for a connection, a lock or an answer."
    )
    cache_timeout: Seconds = Field(
        default=0.05,
        description="Seconds that Redis may take for an answer of a tenant's `cache`; then there is none there.",
    )
    drills_file: FileName | None = Field(
        default=None,
        description="Where results of drills are kept, JSON lines, the last 1000; null: in memory, the last 100.",
    )


class ReplicasTlsConfig(Section):
    cert_file: FileName = Field(description="This replica's certificate chain, PEM; shown by both sides.")
    key_file: FileName = Field(description="Its private key, PEM.")
    ca_file: FileName = Field(description="Who has signed the replicas' certificates, PEM: others are not let in.")


class ReplicasConfig(Section):
    listen: LinkAddress = Field(
        default=f"tcp://0.0.0.0:{DEFAULT_LINK_PORT}",
        description="Where other replicas ask for tickets; port 0 picks a free one. They prove that they have the same "
        "server.secret. Only with state.redis_url. With server.workers each further worker has the next port (or path, "
        "`.1`, `.2`, …), here and in `advertise`.",
    )
    advertise: LinkAddress | None = Field(
        default=None,
        description="What the others are told of that; null: the address from which this host reaches Redis.",
    )
    tls: ReplicasTlsConfig | None = Field(
        default=None, description="Replicas speak TLS with each other, both with certificates; null: not encrypted."
    )
    prefix: KeyPrefix = Field(
        default="promptlane:", description="Before every key in Redis; the same for all replicas, and for nobody else."
    )
    lease_seconds: LeaseSeconds = Field(
        default=1.5, description="Seconds after which a pool of a replica that died is another's; it is looked at 4/s."
    )


class TracingConfig(Section):
    endpoint: EngineUrl = Field(
        description="Base URL of a collector that takes OTLP over HTTP; spans go to its `/v1/traces`."
    )
    sample: Annotated[float, NO_BOOL, Ge(0), Le(1)] = Field(
        default=0.1, description="Share of the traces that is sent, chosen by their ids."
    )


class ClassifyConfig(Section):
    long_prompt_tokens: Count = Field(
        default=2048, description="Prompts of more tokens than this are long. Also by PROMPT_TOKEN_THRESHOLD."
    )
    batch_prompts: Count = Field(default=8, description="A request with at least this many prompts or inputs is batch.")
    batch_n: Count = Field(default=4, description="A request for more than this many choices (`n`) is batch.")
    batch_header: HeaderName = Field(default="x-promptlane-lane", description="Request header that asks for a lane.")
