"""Who may ask the API for what: engines nothing, the gateway what its configuration uses.

Floor: plan and manifests -> findings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from router.deployment.finding import Finding
from router.deployment.grants import Grant
from router.deployment.names import GATEWAY_ACCOUNT
from router.deployment.objects import Manifests, Object, meta, where
from router.deployment.parts import Plan

_ACCOUNTS = "system:serviceaccounts"  # the group of all; with a colon and a namespace, of that one's
_EVERYBODY = {_ACCOUNTS, "system:authenticated", "system:unauthenticated"}
_KINDS = ("RoleBinding", "ClusterRoleBinding")


def rights(plan: Plan, found: Manifests) -> Iterator[Finding]:
    """Engines have none, and the gateway no more than its configuration uses, in namespaces that it names."""
    spaces = {owner.namespace for owner in plan.owners}
    for kind in _KINDS:
        for binding in found.of(kind):
            space = str(meta(binding).get("namespace"))
            for subject in binding.get("subjects") or ():
                whose = _accounts(subject, space)
                if whose is None:
                    # Every cluster gives everybody some, which are none in a namespace.
                    if kind == "RoleBinding" and space in spaces:
                        yield Finding(where(binding), f"gives rights to {subject.get('name')}, engines among them")
                elif whose[0] in spaces:
                    yield Finding(where(binding), f"gives rights to pods of {whose[0]}")
                elif whose == (plan.gateway_namespace, None):
                    yield Finding(where(binding), "gives rights to all accounts of the gateway's namespace")
                elif _is_gateway(whose, plan):
                    yield from _more(plan, binding, found)


def gateway_has_what_it_needs(plan: Plan, found: Manifests) -> Iterator[Finding]:
    """In each owner's namespace a Role gives the gateway what finding and scaling take."""
    for owner in plan.owners:
        given = {
            grant
            for binding in found.of("RoleBinding", owner.namespace)
            if any(_is_gateway(_accounts(one, owner.namespace), plan) for one in binding.get("subjects") or ())
            for grant in _granted(binding, found)
        }
        for grant in sorted(plan.grants.get(owner.namespace, frozenset()) - given, key=str):
            yield Finding(f"Namespace {owner.namespace}", f"no Role and RoleBinding let the gateway {grant}")


def _accounts(subject: Mapping[str, Any], space: str) -> tuple[str, str | None] | None:
    """Namespace and name of the service account that is meant, or of all of a namespace; None for all of the cluster's;
    ("", None) for people."""
    kind, name = subject.get("kind"), str(subject.get("name"))
    if kind == "ServiceAccount":
        return str(subject.get("namespace") or space), name
    if kind == "User" and name.startswith("system:serviceaccount:"):
        namespace, _, account = name.removeprefix("system:serviceaccount:").partition(":")
        return namespace, account
    if kind == "Group" and name in _EVERYBODY:
        return None
    if kind == "Group" and name.startswith(f"{_ACCOUNTS}:"):
        return name.removeprefix(f"{_ACCOUNTS}:"), None
    return "", None


def _is_gateway(account: tuple[str, str | None] | None, plan: Plan) -> bool:
    return account == (plan.gateway_namespace, GATEWAY_ACCOUNT)


def _more(plan: Plan, binding: Object, found: Manifests) -> Iterator[Finding]:
    """What this binding gives the gateway beyond what it needs there."""
    role = binding.get("roleRef") or {}
    if binding.get("kind") == "ClusterRoleBinding" or role.get("kind") != "Role":
        yield Finding(where(binding), "gives the gateway rights beyond a namespace's Role")
        return
    space = str(meta(binding).get("namespace"))
    needed = plan.grants.get(space, frozenset())
    for grant in sorted(set(_granted(binding, found)) - needed, key=str):
        yield Finding(f"Role {space}/{role.get('name')}", f"lets the gateway {grant}, which nothing uses")


def _granted(binding: Object, found: Manifests) -> Iterator[Grant]:
    """Every grant of the Role that is bound; `*` is none that anybody needs."""
    role = binding.get("roleRef") or {}
    if role.get("kind") != "Role":
        return
    one = found.one("Role", str(role.get("name")), str(meta(binding).get("namespace")))
    for rule in (one or {}).get("rules") or ():
        for group in rule.get("apiGroups") or ():
            for resource in rule.get("resources") or ():
                for verb in rule.get("verbs") or ():
                    for name in rule.get("resourceNames") or (None,):
                        yield Grant(group, resource, name, verb)
