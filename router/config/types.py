"""What a single value must look like: a type, its bounds, its normal form and the words for it.

Floor: pure; imports nothing of this package. A check returns the normal form or raises ValueError, whose text nobody
sees: messages and the docs print the `Expect` beside it. Times are seconds.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Annotated, Literal, TypeAlias, get_args
from urllib.parse import urlsplit

from annotated_types import Ge, Gt, Le
from pydantic import AfterValidator, BeforeValidator, PlainValidator, SecretStr

from policies.registry import PROFILES

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
ApiName: TypeAlias = Literal[
    "chat",
    "completions",
    "embeddings",
    "responses",
    "messages",
    "rerank",
    "score",
    "tokenize",
    "models",
    "usage",
]
KNOWN_PROFILES: tuple[str, ...] = tuple(PROFILES)
API_NAMES: tuple[str, ...] = get_args(ApiName)

MIN_SECRET_LENGTH = 32  # characters; salts derived from less could be guessed
MAX_WORKERS = 64  # more than the cores of a machine that engines leave to a gateway
DAY = 86_400.0  # seconds; no wait of a gateway is longer
VARIABLE_NAME = r"[A-Za-z_][A-Za-z0-9_]{0,255}"
_HOST_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_HOST_LABEL}(?:\.{_HOST_LABEL})*")
_URL_TEXT = re.compile(r"[\x21-\x7e]{1,2048}")  # `urlsplit` silently drops tabs and newlines: refuse them before


@dataclass(frozen=True, slots=True)
class Expect:
    """Stands in an `Annotated` type and says in a few words what it accepts; messages and the docs both print it."""

    text: str


def host_name(text: str) -> str:
    """A lower-case DNS name or IPv4 address, without port."""
    host = text.lower()
    if not _HOST.fullmatch(host):
        raise ValueError
    return host


def engine_url(text: str) -> str:
    """`http(s)://host[:port][/path]` in one spelling: equal URLs are equal texts. No query, fragment or user info."""
    if not _URL_TEXT.fullmatch(text):
        raise ValueError
    parts = urlsplit(text)
    host, port = parts.hostname or "", parts.port  # `port` raises ValueError on a bad number
    if parts.scheme not in ("http", "https") or "?" in text or "#" in text or "@" in parts.netloc or port == 0:
        raise ValueError
    name = f"[{ipaddress.IPv6Address(host)}]" if "[" in parts.netloc else host_name(host)
    standard = {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{name}{'' if port in (None, standard) else f':{port}'}{parts.path.rstrip('/')}"


def socket_url(text: str) -> str:
    """`tcp://host:port` to connect to, in one spelling."""
    parts = urlsplit(text) if _URL_TEXT.fullmatch(text) else urlsplit("")
    if parts.scheme != "tcp" or parts.port is None or parts.path not in ("", "/"):
        raise ValueError
    host = urlsplit(engine_url(f"http{text[3:]}")).netloc  # port 80 is left out there
    return f"tcp://{host.removesuffix(':80')}:{parts.port}" if parts.port == 80 else f"tcp://{host}"


def origin(text: str) -> str:
    """What a browser sends as Origin, or `*`."""
    if text == "*":
        return text
    normal = engine_url(text)
    if urlsplit(text).path:
        raise ValueError
    return normal


def network(value: object) -> Network:
    """An IP network; one address is a network of one. Host bits that are set point to a typing error."""
    if not isinstance(value, str | ipaddress.IPv4Network | ipaddress.IPv6Network):
        raise ValueError
    return ipaddress.ip_network(value)


def moment(value: object) -> datetime | None:
    """An aware time; a bare date is its first moment, 00:00 UTC."""
    if value is None:
        return None
    if isinstance(value, str):
        value = date.fromisoformat(value) if len(value) == 10 else datetime.fromisoformat(value)
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time(), UTC)
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise ValueError
    return value


def field_name(text: str) -> str:
    """A name as fields of JSON have it."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", text):
        raise ValueError
    return text


def no_bool(value: object) -> object:
    """YAML's `yes` is no number, though Python's True is 1."""
    if isinstance(value, bool):
        raise ValueError
    return value


def matching(pattern: str, what: str) -> tuple[AfterValidator, Expect]:
    """For an `Annotated` type: a text that the whole of a pattern fits, and the words for it."""

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


NO_BOOL = BeforeValidator(no_bool)
Port: TypeAlias = Annotated[int, NO_BOOL, Ge(0), Le(65535)]
Count: TypeAlias = Annotated[int, NO_BOOL, Ge(1), Le(2**53)]
Workers: TypeAlias = Annotated[int, NO_BOOL, Ge(1), Le(MAX_WORKERS)]
Bytes: TypeAlias = Annotated[int, NO_BOOL, Ge(1024), Le(2**40)]
Seconds: TypeAlias = Annotated[float, NO_BOOL, Gt(0), Le(DAY)]
# A month: longer than anybody keeps weights, by which answers change.
CacheSeconds: TypeAlias = Annotated[float, NO_BOOL, Ge(0.001), Le(31 * DAY)]
# A Redis that is to answer within `state.cache_timeout` has to send so much.
CacheAnswerBytes: TypeAlias = Annotated[int, NO_BOOL, Ge(1024), Le(64 * 1024 * 1024)]
SecondsOrNone: TypeAlias = Annotated[float, NO_BOOL, Ge(0), Le(DAY)]  # where 0 means: do not wait
Weight: TypeAlias = Annotated[float, NO_BOOL, Gt(0), Le(1e6)]
TokenWeight: TypeAlias = Annotated[float, NO_BOOL, Ge(0), Le(1000)]
Price: TypeAlias = Annotated[float, NO_BOOL, Ge(0), Le(1e6)]
# In the currency's units. The limit is kept in millionths of them, exact up to 2^53.
Money: TypeAlias = Annotated[float, NO_BOOL, Ge(0.01), Le(1e9)]
Share: TypeAlias = Annotated[float, NO_BOOL, Gt(0), Le(1)]
# Below 1: a target without a budget for errors has no burn rate.
SloShare: TypeAlias = Annotated[float, NO_BOOL, Ge(0.5), Le(0.99999)]

DNS_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_TENANT_ID = "a name of letters a-z, digits and inner hyphens, at most 63 characters (a DNS label)"
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
NAME_WORDS = "a name of letters, digits, dots, hyphens and underscores, at most 128 characters"
# ASCII without quotation marks and backslashes: the name stands in JSON as it is, so rewriting an alias is a
# replacement of bytes.
_MODEL_NAME = "a name of 1 to 256 printable ASCII characters without quotation marks, backslashes and outer spaces"
Namespace: TypeAlias = Annotated[str, *matching(DNS_LABEL, "the name of a namespace")]
TenantId: TypeAlias = Annotated[str, *matching(DNS_LABEL, _TENANT_ID)]
TierName: TypeAlias = Annotated[str, *matching(r"[a-z0-9][a-z0-9_-]{0,62}", "a name of a-z, 0-9, - and _")]
Name: TypeAlias = Annotated[str, *matching(NAME_PATTERN, NAME_WORDS)]
ProfileName: TypeAlias = Annotated[str, Expect(f"one of {', '.join(KNOWN_PROFILES)}, or of routing.profiles")]
ModelName: TypeAlias = Annotated[str, *matching(r"(?! )[ !#-\[\]-~]{1,256}(?<! )", _MODEL_NAME)]
Host: TypeAlias = Annotated[str, AfterValidator(host_name), Expect("a host such as llm.example.com, without port")]
BindHost: TypeAlias = Annotated[str, *matching(r"[A-Za-z0-9.:_-]{1,253}", "an address or host name to listen on")]
FileName: TypeAlias = Annotated[str, *matching(r"[^\0]{1,4096}", "a file name")]
Word: TypeAlias = Annotated[str, *matching(r"[^\0]{1,4096}", "text")]
Label: TypeAlias = Annotated[str, *matching(r"[^\x00-\x1f\x7f]{0,200}", "one line of at most 200 characters")]
HeaderName: TypeAlias = Annotated[
    str, AfterValidator(str.lower), *matching(r"[a-z0-9-]{1,64}", "a header name: letters, digits and hyphens")
]
Variable: TypeAlias = Annotated[str, *matching(VARIABLE_NAME, "the name of an environment variable")]
Sha256: TypeAlias = Annotated[
    str, AfterValidator(str.lower), *matching(r"[0-9a-f]{64}", "64 hexadecimal digits (in quotes if all are decimal)")
]
WeightsDigest: TypeAlias = Annotated[
    str, AfterValidator(str.lower), *matching(r"sha256:[0-9a-f]{64}", "`sha256:` and 64 hexadecimal digits")
]
Expiry: TypeAlias = Annotated[
    datetime | None, PlainValidator(moment), Expect("a date, a time with its zone (2027-01-31T12:00:00Z) or null")
]
Proxy: TypeAlias = Annotated[Network, PlainValidator(network), Expect("an IP network such as 10.0.0.0/8")]
Origin: TypeAlias = Annotated[str, AfterValidator(origin), Expect('"*" or an origin such as https://app.example.com')]
EngineUrl: TypeAlias = Annotated[
    str, AfterValidator(engine_url), Expect("a URL http(s)://host[:port][/path] without query and user info")
]
SocketUrl: TypeAlias = Annotated[str, AfterValidator(socket_url), Expect("an address tcp://host:port")]
RedisUrl: TypeAlias = Annotated[
    str,
    *matching(
        r"(rediss?(\+sentinel|\+cluster)?|unix)://[\x21-\x7e]+",
        "a URL redis://…, rediss://… or unix://…, or with +sentinel or +cluster",
    ),
]
LinkAddress: TypeAlias = Annotated[
    str,
    *matching(
        r"tcp://([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+\]):\d{1,5}|unix:/[\x21-\x7e]{1,100}",
        "tcp://HOST:PORT or unix:/PATH",
    ),
]
KeyPrefix: TypeAlias = Annotated[
    str, *matching(r"[A-Za-z0-9_:.-]{1,64}", "text of letters, digits, colons, dots, hyphens and underscores")
]
LeaseSeconds: TypeAlias = Annotated[float, NO_BOOL, Ge(1), Le(60)]  # below, a loop that is busy loses what it owns
LedgerUrl: TypeAlias = Annotated[
    str, *matching(r"(sqlite:///|postgresql://)[\x21-\x7e]+", "a URL sqlite:///… or postgresql://…")
]
ServerSecret: TypeAlias = Annotated[
    SecretStr, *_secret(lambda text: len(text) >= MIN_SECRET_LENGTH, f"text of at least {MIN_SECRET_LENGTH} characters")
]
EngineKey: TypeAlias = Annotated[
    SecretStr, *_secret(lambda text: bool(re.fullmatch(r"[\x21-\x7e]{1,4096}", text)), "printable ASCII without spaces")
]
