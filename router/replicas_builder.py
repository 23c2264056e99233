"""The configuration's `state.redis_url`, `replicas` and `server.workers` to this process's place among its replicas.

Floor: part of `router.assembly`; reads the files that the section names. Made once: a reload changes nothing of it.
"""

from __future__ import annotations

import logging
import re
import socket
import ssl
import time
from functools import partial
from secrets import token_hex
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from router.config import Config, ConfigError, Problem, ReplicasConfig, ReplicasTlsConfig
from router.coordination.address import Address
from router.coordination.journal import FileJournal, StreamJournal
from router.coordination.local_store import LocalStore
from router.coordination.replicas import Replicas, ReplicasSettings
from router.coordination.store import BadStoreUrl, StoreLost
from router.metrics import Metrics
from router.process import Worker

if TYPE_CHECKING:
    from router.coordination.redis_store import RedisStore

_log = logging.getLogger("promptlane.coordination")
_ANYWHERE = ("0.0.0.0", "::")  # noqa: S104  # what is compared with, not bound to


def build_replicas(config: Config, secret: bytes, metrics: Metrics, worker: Worker | None = None) -> Replicas | None:
    """None where nothing is shared. `worker`: this process as one of several of this machine, which are replicas of
    each other, without Redis too. Raises ConfigError."""
    url, replicas = config.state.redis_url, config.replicas
    if url is None:
        return _among_workers(worker, secret, metrics) if worker is not None else None
    index = worker.index if worker is not None else 0
    server_tls, client_tls = _contexts(replicas.tls)
    settings = ReplicasSettings(
        me=f"{re.sub('[^A-Za-z0-9._-]', '-', socket.gethostname())[:100]}-{token_hex(4)}",
        listen=_shifted(replicas.listen, index),
        advertise=partial(advertised, replicas.advertise and _shifted(replicas.advertise, index), url),
        lease_seconds=replicas.lease_seconds,
        server_tls=server_tls,
        client_tls=client_tls,
    )
    store = _store(url, replicas)
    return Replicas(settings, store, secret, time.monotonic, metrics, StreamJournal(store))


def _among_workers(worker: Worker, secret: bytes, metrics: Metrics) -> Replicas:
    me = f"worker-{worker.index}-{token_hex(4)}"  # a name of its own in each life
    folder = worker.folder / "pools"
    try:
        store = LocalStore(folder)
    except StoreLost as error:
        raise ConfigError([Problem("server.workers", str(error))]) from None
    settings = ReplicasSettings(me=me, listen=f"unix:{worker.folder / me}")
    return Replicas(settings, store, secret, time.monotonic, metrics, FileJournal(folder))


def _shifted(address: str, index: int) -> str:
    """Where the worker of this index listens: so many ports further on, and at a path of its own. Port 0 is a free one
    for each."""
    found = Address.parse(address)
    if found.path is not None:
        return f"{address}.{index}" if index else address
    return str(found._replace(port=found.port + index)) if found.port else address


def advertised(configured: str | None, store_url: str, bound: str) -> str:
    """Where others find what listens at `bound`. All of this host's addresses is none: then it is the one from which
    the store is reached."""
    address = Address.parse(bound)
    if configured is not None or address.path is not None or address.host not in _ANYWHERE:
        return configured or bound
    return str(address._replace(host=_own_address(store_url)))


def _own_address(store_url: str) -> str:
    """No packet is sent: a datagram socket only asks for the way."""
    first = urlsplit(f"//{urlsplit(store_url).netloc.rpartition('@')[2].split(',')[0]}")
    host, port = first.hostname or "localhost", 6379
    try:
        family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as asking:
            asking.connect(where)
            found: str = asking.getsockname()[0]
            return found
    except OSError as error:
        _log.warning("other replicas on this host only can reach this one; set replicas.advertise (%s)", error)
        return "127.0.0.1"


def _store(url: str, replicas: ReplicasConfig) -> RedisStore:
    from router.coordination.redis_store import RedisStore  # who has no Redis need not load its client

    try:
        return RedisStore(url, prefix=replicas.prefix)
    except BadStoreUrl as error:
        raise ConfigError([Problem("state.redis_url", str(error), None)]) from None


def _contexts(tls: ReplicasTlsConfig | None) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
    """For both sides of links. Certificates name replicas as they like: an address that changes with every start cannot
    be in them, and who has one of this authority, and the secret, is one of us."""
    if tls is None:
        return None, None
    try:
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tls.ca_file)
        client = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=tls.ca_file)
        for context in (server, client):
            context.load_cert_chain(tls.cert_file, tls.key_file)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or "not PEM files with certificates and their key"
        raise ConfigError([Problem("replicas.tls", f"cannot be used: {reason}", None)]) from None
    server.verify_mode = ssl.CERT_REQUIRED
    client.check_hostname = False
    return server, client
