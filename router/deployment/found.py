"""Engines that a pool finds: as many of each role as `deploy.engines` or the tier says, with the labels that its
selector asks for, and the Service whose name it may ask for instead.

Floor: part of `plan`. What a selector takes is checked against what is rendered, before anything is.
"""

from __future__ import annotations

from dataclasses import replace

from policies.types import Role
from router.config import Config, ConfigError, DiscoveryConfig, Problem, StandbyConfig
from router.config.deploy_checks import service_name, workload_name
from router.deployment.names import PART, POOL, TENANT, TIER
from router.deployment.parts import Engine, Search, Service, engine_labels, prepull_labels
from router.wire.selectors import Term, read_selector, takes

ENGINE_PORT = 8000  # vLLM's own, where a pool names its port
_SELECTOR = "discovery.kubernetes.selector"


def search_of(config: Config, common: Engine, pool: str, discovery: DiscoveryConfig) -> Search:
    """What it finds, and by what. Raises ConfigError."""
    pods = discovery.kubernetes
    selector = read_selector(pods.selector) if pods is not None else None
    ports, counts = _ports(pool, discovery), _counts(config, common, pool, discovery)
    labels = _labels(selector or ())
    engines = []
    for role, count in counts.items():
        more = labels | ({pods.role_label: role.value} if pods is not None else {})
        name = workload_name(pool, role.value)
        made = replace(common, name=name, role=role, ports=ports, found=True, replicas=count)
        ours = {TIER, *engine_labels(made)}
        engines.append(replace(made, labels={key: more[key] for key in more if key not in ours}))
    chosen = {PART: "engine", POOL: common.pool}
    name = service_name(pool, discovery.model_dump())
    service = Service(name, common.namespace, chosen, chosen | {TENANT: common.owner}, ports, headless=True)
    search = Search(pool, common.namespace, selector, service, tuple(engines))
    _check(search)
    _check_hooks(search, config.pools[pool].standby)
    return search


def _ports(pool: str, discovery: DiscoveryConfig) -> dict[str, int]:
    """Pods are asked by the port's number or its name; records of a Service by `http`."""
    said = discovery.kubernetes.port if discovery.kubernetes is not None else ""
    number = discovery.dns.port if discovery.dns is not None else int(said) if said.isdecimal() else None
    ports = {said if said and not said.isdecimal() else "http": number or ENGINE_PORT}
    for name, other in (("kv-events", discovery.kv_events_port), ("kv-replay", discovery.kv_replay_port)):
        if other is not None and (name in ports or other in ports.values()):
            raise _mistake(pool, f"discovery.{name.replace('-', '_')}_port", "expected a port and a name of its own")
        if other is not None:
            ports[name] = other
    return ports


def _counts(config: Config, common: Engine, pool: str, discovery: DiscoveryConfig) -> dict[Role, int]:
    """A name's addresses do not say what role they have: all have the one of `discovery`."""
    said = common.deploy.engines
    given = (said or config.tiers[common.tier].engines).model_dump()
    counts = {role: given[role.value] for role in Role if given[role.value]}
    if discovery.dns is not None:
        if said is not None and set(counts) - {discovery.role}:
            raise _mistake(pool, "deploy.engines", f"expected {discovery.role.value} ones only: DNS tells no roles")
        counts = {role: count for role, count in counts.items() if role is discovery.role}
    if not counts:
        raise _mistake(pool, "deploy.engines", "expected at least one")
    return counts


def _labels(selector: tuple[Term, ...]) -> dict[str, str]:
    """The labels that a selector asks for; of several values the first."""
    return {term.key: (*term.values, "true")[0] for term in selector if term.operator in ("In", "Exists")}


def _check(search: Search) -> None:
    """A selector takes its pool's engines, and not the pods that pull their image. Which others it takes besides, the
    audit asks of everything there."""
    for engine in search.engines:
        labels = {**engine_labels(engine), TIER: engine.tier}
        if search.selector is not None and not takes(search.selector, labels):
            shown = ", ".join(f"{key}={value}" for key, value in labels.items())
            raise _mistake(search.pool, _SELECTOR, f"expected one that takes this pool's engines ({shown})")
        if search.selector is not None and takes(search.selector, {**prepull_labels(engine), TIER: engine.tier}):
            text = f"expected one that takes engines only, by {PART}=engine: it takes the pods that pull images, too"
            raise _mistake(search.pool, _SELECTOR, text)


def _check_hooks(search: Search, standby: StandbyConfig) -> None:
    """What a hook scales is there, and its GPUs are in the quota."""
    there = {engine.name: engine.replicas for engine in search.engines if engine.role is Role.COLD}
    name = workload_name(search.pool, Role.COLD.value)
    for key, hook in (("start", standby.start), ("stop", standby.stop)):
        scale = hook.scale if hook is not None else None
        if scale is not None and scale.name == name and (scale.replicas or 1) > there.get(name, 0):
            text = f"expected at most deploy.engines.cold, which is {there.get(name, 0)}"
            raise _mistake(search.pool, f"standby.{key}.scale", text)


def _mistake(pool: str, key: str, text: str) -> ConfigError:
    return ConfigError([Problem(f"pools.{pool}.{key}", text, None)])
