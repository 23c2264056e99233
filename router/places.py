"""An endpoint of a pool's configuration to what serves there: its state and its connections.

Floor: part of `router.assembly`. Lives as long as its runtime, and knows nothing of the one before.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from secrets import token_hex

from policies.endpoint_state import RANKS, TOKENS_PER_BLOCK, EndpointState, index_blocks
from policies.exact_index import ExactIndex
from policies.types import Endpoint
from router.config import EndpointConfig, PoolConfig, RoutingConfig
from router.pools import Place
from router.upstream import Timeouts, Upstream

PRIOR_BYTES_PER_TOKEN = 4.0  # of English text and code, until the engine's own counts are known


class Places:
    """`tls`: by pool, None where no engine is spoken to by it."""

    def __init__(self, routing: RoutingConfig, tls: Mapping[str, ssl.SSLContext | None]) -> None:
        fixed = routing.block_bytes
        self.tokens_per_block = TOKENS_PER_BLOCK if fixed is None else fixed / PRIOR_BYTES_PER_TOKEN
        self._routing = routing
        self._tls = tls

    def make(self, name: str, pool: PoolConfig, endpoint: Endpoint, key: str | None = None) -> Place:
        """Of which nothing is known. `key`: see `Place`."""
        # Without a listener it is the estimate that it extends, so exact mode may come and go by reloads.
        blocks = index_blocks(self._routing.default_kv_tokens, TOKENS_PER_BLOCK)
        state = EndpointState(endpoint, index=ExactIndex(blocks, token_hex(8)))
        self.shape(state, endpoint, pool)
        return Place(state, self.upstream(name, pool, endpoint), key)

    def shape(self, state: EndpointState, endpoint: Endpoint, pool: PoolConfig) -> None:
        """As the configuration has it."""
        routing = self._routing
        state.endpoint, state.rank, state.draining = endpoint, RANKS[endpoint.role], False
        health = pool.health
        state.health.configure(
            unhealthy_after=health.unhealthy_after, healthy_after=health.healthy_after, slow_start=health.slow_start
        )
        known = endpoint.kv_capacity_tokens or state.kv_capacity_tokens
        if known is not None:
            state.learn_kv_capacity(known, self.tokens_per_block, routing.index_share)
        else:
            state.size_index(index_blocks(routing.default_kv_tokens, self.tokens_per_block, routing.index_share))

    def upstream(self, name: str, pool: PoolConfig, endpoint: Endpoint) -> Upstream:
        """Its connections."""
        limits = pool.timeouts
        return Upstream(
            endpoint.url,
            timeouts=Timeouts(limits.connect, limits.first_byte, limits.idle, limits.total),
            ssl_context=self._tls[name],
            headers=[(key.encode(), value.encode()) for key, value in credentials(pool)],
        )


def endpoint_of(config: EndpointConfig) -> Endpoint:
    """In the words of the policies."""
    return Endpoint(**config.model_dump(exclude={"kv_events_url", "kv_replay_url", "weights_digest"}))


def credentials(pool: PoolConfig) -> list[tuple[str, str]]:
    """The header by which the pool's engines know the gateway, where they ask for a key."""
    key = pool.engine_api_key
    return [("authorization", f"Bearer {key.get_secret_value()}")] if key is not None else []
