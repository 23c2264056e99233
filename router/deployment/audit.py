"""Whether what is rendered, or runs, keeps tenants apart as the configuration says.

Floor: plan and manifests -> findings, by rule. Each rule has a test that breaks it (tests/deploy/test_audit.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from router.deployment import rules_bounds, rules_network, rules_rights, rules_workloads
from router.deployment.finding import Finding
from router.deployment.objects import Manifests
from router.deployment.parts import Plan

Rule = Callable[[Plan, Manifests], Iterator[Finding]]

RULES: dict[str, Rule] = {
    "namespaces": rules_bounds.namespaces,
    "quotas": rules_bounds.quotas,
    "limit-ranges": rules_bounds.limit_ranges,
    "priorities": rules_bounds.priorities,
    "rights": rules_rights.rights,
    "gateway-rights": rules_rights.gateway_has_what_it_needs,
    "default-deny": rules_network.default_deny,
    "only-the-gateway": rules_network.only_the_gateway,
    "gateway-gets-in": rules_network.gateway_gets_in,
    "nothing-out": rules_network.nothing_out,
    "operators-apart": rules_network.operators_are_apart,
    "services-inside": rules_network.services_stay_inside,
    "services": rules_network.services_are_there,
    "endpoints-run": rules_workloads.every_endpoint_runs,
    "found": rules_workloads.searches_find_their_own,
    "nothing-else": rules_workloads.nothing_else_runs,
    "own-namespace": rules_workloads.namespaces_are_their_owners,
    "own-gpus": rules_workloads.gpus_are_their_owners,
    "own-nodes": rules_workloads.nodes_are_their_owners,
    "no-way-around": rules_workloads.nobody_gets_around,
    "classes": rules_workloads.classes_are_their_tiers,
    "on-own-nodes": rules_workloads.pods_are_on_their_nodes,
}


def audit(plan: Plan, found: Manifests) -> dict[str, list[Finding]]:
    """What each rule found, each finding once."""
    return {name: list(dict.fromkeys(rule(plan, found))) for name, rule in RULES.items()}
