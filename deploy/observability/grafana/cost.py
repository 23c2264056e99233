"""The dashboard of what the engines' time costs, and what it is used for."""

from __future__ import annotations

from deploy.observability.grafana.model import TENANT, Dashboard, Panel, one, rate, stat

_HOUR = "sum(pool:promptlane_endpoint_hourly_cost:sum)"
_TOKENS = "3600 * sum(tenant_model:promptlane_tokens:rate5m)"
_OF_EACH = "max by (pool, endpoint) (promptlane_endpoint_hourly_cost)"

COST = Dashboard(
    "promptlane-cost",
    "Promptlane / Cost",
    "What runs at which hourly_cost of the configuration, in its currency, and what that is used for.",
    (
        (
            "Money",
            (
                stat(
                    "Cost of an hour",
                    "short",
                    _HOUR,
                    "Of all endpoints with an hourly_cost, idle ones and standbys too.",
                    width=8,
                ),
                stat("Tokens in an hour", "short", _TOKENS, "At the load of the last five minutes.", width=8),
                stat(
                    "Realised cost of a million tokens",
                    "short",
                    f"1e6 * {_HOUR} / ({_TOKENS})",
                    "Of prompts and answers together, at the load of the last five minutes.",
                    width=8,
                ),
                one(
                    "Cost of an hour by pool",
                    "short",
                    "pool:promptlane_endpoint_hourly_cost:sum",
                    "{{pool}}",
                    width=12,
                ),
                one(
                    "Cost of an hour that does not serve",
                    "short",
                    f"sum by (pool) ({_OF_EACH} * on (pool, endpoint) "
                    "(1 - max by (pool, endpoint) (promptlane_endpoint_available)))",
                    "{{pool}}",
                    "Standbys that sleep, and endpoints that are broken.",
                    width=12,
                ),
            ),
        ),
        (
            "Work",
            (
                one(
                    "Tokens a second by tenant",
                    "short",
                    f"sum by (tenant) (tenant_model:promptlane_tokens:rate5m{{{TENANT}}})",
                    "{{tenant}}",
                    width=12,
                ),
                rate(
                    "Prompt tokens a second that caches saved",
                    "short",
                    "promptlane_cached_prompt_tokens_total",
                    "tenant",
                    TENANT,
                    width=12,
                ),
                one(
                    "Cost of an hour of requests by tenant and model",
                    "short",
                    f"3600e-6 * tenant_model:promptlane_cost_micro_usd:rate5m{{{TENANT}}}",
                    "{{tenant}} {{model}}",
                    "As their records say it: by prices, or by the time that engines worked for them.",
                    width=12,
                ),
                one(
                    "Share of requests answered from the cache",
                    "percentunit",
                    f"tenant:promptlane_cache_hits:share5m{{{TENANT}}}",
                    "{{tenant}}",
                    "Of tenants with a cache.",
                    width=12,
                ),
                Panel(
                    "Tokens in 24 hours",
                    "short",
                    tuple(
                        (
                            f"sum by (tenant, model) (increase(promptlane_{kind}_tokens_total{{{TENANT}}}[24h]))",
                            f"{name} {{{{tenant}}}} {{{{model}}}}",
                        )
                        for kind, name in (("prompt", "prompt"), ("completion", "answer"))
                    ),
                    kind="bargauge",
                    width=24,
                ),
            ),
        ),
    ),
    (("tenant", "tenant", "promptlane_requests_total"),),
)
