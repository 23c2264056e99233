"""The dashboard of all tenants and pools."""

from __future__ import annotations

from deploy.observability.grafana.model import POOL, TENANT, WINDOW, Dashboard, Panel, one, rate, rated, spread, stat

_OURS = "and on (job, instance) promptlane_build_info"
_ALL = f"sum(rate(promptlane_requests_total[{WINDOW}]))"
_FAILED = f'sum(rate(promptlane_requests_total{{status=~"5.."}}[{WINDOW}]))'

FLEET = Dashboard(
    "promptlane-fleet",
    "Promptlane / Fleet",
    "All tenants and pools: who is served, by what, and where it is tight.",
    (
        (
            "Now",
            (
                stat("Requests", "reqps", _ALL),
                stat("Failing", "percentunit", f"{_FAILED} / {_ALL}"),
                stat("Waiting", "short", "sum(promptlane_waiting)"),
                stat("Endpoints that serve", "short", "sum(pool:promptlane_endpoint_available:count)"),
                stat("Gateways", "short", "count(promptlane_build_info)"),
                stat(
                    "Fastest budget burn",
                    "short",
                    "max(tenant_objective:promptlane_slo_burn:rate1h)",
                    "1: exactly what the objectives allow. From 14.4 on somebody is called.",
                ),
            ),
        ),
        (
            "Service",
            (
                rate("By tenant", "reqps", "promptlane_requests_total", "tenant", TENANT),
                rate("By status", "reqps", "promptlane_requests_total", "status", TENANT),
                rate("Refused by the gateway", "reqps", "promptlane_rejections_total", "reason", TENANT),
                spread("First byte", "promptlane_first_byte_seconds", "lane", TENANT),
                spread("Whole answer", "promptlane_request_seconds", "lane", TENANT),
                spread("Between two tokens", "promptlane_output_token_seconds", "lane", TENANT),
            ),
        ),
        (
            "Queues and routing",
            (
                one("Waiting", "short", f"sum by (pool, lane) (promptlane_waiting{{{POOL}}})", "{{pool}} {{lane}}"),
                one("Saturation", "percentunit", f"max by (pool) (promptlane_pool_saturation{{{POOL}}})", "{{pool}}"),
                spread("Time in the queue", "promptlane_queue_seconds", "lane", POOL),
                rate(
                    "Prompt tokens in caches, predicted and reported",
                    "short",
                    "promptlane_cached_tokens_total",
                    "kind",
                    POOL,
                    "A second. Far apart: affinity is wrong about what engines hold.",
                ),
                one(
                    "Time to the first byte, predicted by real",
                    "short",
                    f"pool_endpoint:promptlane_forecast:ratio1h{{{POOL}}}",
                    "{{endpoint}}",
                    "1: predictions are right on average.",
                ),
                spread("Error of that prediction", "promptlane_forecast_error_seconds", "pool", POOL),
                rate("Turned away by queues", "reqps", "promptlane_queue_refusals_total", "pool, lane, reason", POOL),
                rate(
                    "Requests that affinity could not help",
                    "reqps",
                    "promptlane_affinity_blind_total",
                    "pool, reason",
                    POOL,
                ),
                one(
                    "Affinity is useless",
                    "short",
                    f"max by (endpoint) (promptlane_endpoint_affinity_useless{{{POOL}}})",
                    "{{endpoint}}",
                    "1: the engine has less than half of what is sent there for its cache.",
                ),
            ),
        ),
        (
            "Failures and recovery",
            (
                one(
                    "Status of endpoints",
                    "short",
                    f"max by (endpoint, role, status) (promptlane_endpoint_status{{{POOL}}})",
                    "{{endpoint}} ({{role}}) {{status}}",
                    kind="state-timeline",
                    width=24,
                ),
                rate("Failed attempts", "reqps", "promptlane_attempt_failures_total", "endpoint, cause", POOL),
                Panel(
                    "Retries, hedges and resumed streams",
                    "reqps",
                    (
                        rated("promptlane_retries_total", "cause", POOL, "retry"),
                        rated("promptlane_hedges_total", "result", POOL, "hedge"),
                        rated("promptlane_resumes_total", "result", POOL, "resume"),
                    ),
                ),
                one(
                    "Who serves",
                    "short",
                    f"max by (pool) (promptlane_standby_level{{{POOL}}})",
                    "{{pool}}",
                    "0 hot, 1 warm, 2 cold, 3 degraded.",
                ),
                spread("Recovery times", "promptlane_recovery_seconds", "tier", TENANT, shares="0.95"),
                one(
                    "Recoveries that missed their target",
                    "short",
                    f"sum by (tenant, tier) (increase(promptlane_recovery_missed_total{{{TENANT}}}[1h]))",
                    "{{tenant}} ({{tier}})",
                    "In an hour.",
                ),
                one(
                    "Ejections",
                    "short",
                    f"sum by (endpoint, cause) (increase(promptlane_endpoint_ejections_total{{{POOL}}}[1h]))",
                    "{{endpoint}} {{cause}}",
                    "In an hour.",
                ),
            ),
        ),
        (
            "Gateways",
            (
                one(
                    "Part in each pool",
                    "short",
                    f"sum by (pool, part) (promptlane_replica_part{{{POOL}}})",
                    "{{pool}} {{part}}",
                ),
                one("Oldest record not in the database", "s", "promptlane_ledger_lag_seconds", "{{instance}}"),
                one("Spool on disk", "bytes", "promptlane_ledger_spool_bytes", "{{instance}}"),
                one("CPU", "percentunit", f"rate(process_cpu_seconds_total[{WINDOW}]) {_OURS}", "{{instance}}"),
                one("Memory", "bytes", f"process_resident_memory_bytes {_OURS}", "{{instance}}"),
                one("Open files", "short", f"process_open_fds {_OURS}", "{{instance}}"),
            ),
        ),
    ),
    (("tenant", "tenant", "promptlane_requests_total"), ("pool", "pool", "promptlane_pool_saturation")),
)
