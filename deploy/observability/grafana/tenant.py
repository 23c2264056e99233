"""The dashboard of a tenant."""

from __future__ import annotations

from deploy.observability.grafana.model import TENANT, Dashboard, Panel, one, rate, rated, spread, stat

_GOOD = f"tenant_objective:promptlane_slo_good:share30d{{{TENANT}}}"
_BUDGET = "tenant_objective:promptlane_slo_budget:share"
_NAMED = "{{tenant}} {{objective}}"
_MEASURED = "{{tenant}} {{model}} {{measure}}"

TENANTS = Dashboard(
    "promptlane-tenant",
    "Promptlane / Tenant",
    "A tenant: what it asks for, what it gets, and what is left of its objectives' budgets.",
    (
        (
            "Objectives",
            (
                stat("Good in 30 days", "percentunit", _GOOD, width=8, legend=_NAMED),
                stat(
                    "Target",
                    "percentunit",
                    f"max by (tenant, objective) (promptlane_slo_target_share{{{TENANT}}})",
                    width=8,
                    legend=_NAMED,
                ),
                stat(
                    "Left of the budget of 30 days",
                    "percentunit",
                    f"1 - (1 - {_GOOD}) / on (tenant, objective) {_BUDGET}",
                    width=8,
                    legend=_NAMED,
                ),
                Panel(
                    "Budget burn",
                    "short",
                    (
                        (f"tenant_objective:promptlane_slo_burn:rate1h{{{TENANT}}}", f"1 h {_NAMED}"),
                        (f"tenant_objective:promptlane_slo_burn:rate6h{{{TENANT}}}", f"6 h {_NAMED}"),
                    ),
                    "1 uses the budget up exactly in the objective's period.",
                    width=24,
                ),
            ),
        ),
        (
            "Requests",
            (
                rate("By lane", "reqps", "promptlane_requests_total", "tenant, lane", TENANT),
                rate("By status", "reqps", "promptlane_requests_total", "tenant, status", TENANT),
                rate(
                    "Refused by limits",
                    "reqps",
                    "promptlane_limit_refusals_total",
                    "tenant, scope, limit, mode",
                    TENANT,
                ),
                spread("First byte", "promptlane_first_byte_seconds", "tenant, lane", TENANT),
                spread("Whole answer", "promptlane_request_seconds", "tenant, lane", TENANT),
                spread("Between two tokens", "promptlane_output_token_seconds", "tenant, lane", TENANT),
            ),
        ),
        (
            "Tokens",
            (
                Panel(
                    "Tokens a second",
                    "short",
                    (
                        rated("promptlane_prompt_tokens_total", "tenant, model", TENANT, "prompt"),
                        rated("promptlane_completion_tokens_total", "tenant, model", TENANT, "answer"),
                    ),
                ),
                one(
                    "Prompt tokens found in caches",
                    "percentunit",
                    f"tenant_model:promptlane_cached_prompt_tokens:share5m{{{TENANT}}}",
                    "{{tenant}} {{model}}",
                ),
                one(
                    "Length of answers",
                    "short",
                    f"max by (tenant, model, quantile) (promptlane_answer_tokens{{{TENANT}}})",
                    "{{tenant}} {{model}} {{quantile}}",
                    "Tokens.",
                ),
            ),
        ),
        (
            "Answers",
            (
                one(
                    "Moved from what was usual",
                    "short",
                    f"max by (tenant, model, measure) (promptlane_output_drift{{{TENANT}}})",
                    _MEASURED,
                    "Population stability index of the last answers: above 0.25 they have changed.",
                ),
                one(
                    "Shares",
                    "percentunit",
                    f'avg by (tenant, model, measure) (promptlane_output_level{{{TENANT}, measure!~"tokens|watched"}})',
                    _MEASURED,
                    "Of the last answers: cut off by their length (finish), refusals, odd tool calls; repetition, and "
                    "shift of script, on average.",
                ),
                one(
                    "Watched words",
                    "short",
                    f'avg by (tenant, model) (promptlane_output_level{{{TENANT}, measure="watched"}})',
                    "{{tenant}} {{model}}",
                    "In a thousand characters of answers.",
                ),
            ),
        ),
        (
            "Rules, recovery and keys",
            (
                rate("Found by rules", "reqps", "promptlane_guard_verdicts_total", "tenant, rule, action", TENANT),
                rate("Rules that could not look", "reqps", "promptlane_guard_failures_total", "rule, cause", TENANT),
                spread("Time that rules take", "promptlane_guard_seconds", "tenant, side", TENANT),
                spread("Recovery times", "promptlane_recovery_seconds", "tenant, tier", TENANT, shares="0.95"),
                one(
                    "Recoveries that missed their target",
                    "short",
                    f"sum by (tenant) (increase(promptlane_recovery_missed_total{{{TENANT}}}[1h]))",
                    "{{tenant}}",
                    "In an hour.",
                ),
                one(
                    "Valid keys",
                    "short",
                    f"max by (tenant, source) (promptlane_keys{{{TENANT}}})",
                    "{{tenant}} {{source}}",
                ),
            ),
        ),
    ),
    (("tenant", "tenant", "promptlane_requests_total"),),
)
