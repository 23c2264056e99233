"""`promptlane explain`: what the gateway would do with a body, and why, without sending it anywhere.

Floor: assembles. The same objects that serve traffic measure and rank. From the command line their state is that of an
idle, healthy pool, as nothing has been served there; asked over the operator plane it is the state of this moment.
"""

from __future__ import annotations

from collections.abc import Iterator

from policies.admission.saturation import pool_load
from policies.types import Rejection
from policies.waiting import Waiting
from router.assembly import Runtime
from router.calls import ServedModel
from router.errors import BadRequest, NotFound
from router.measure import Measured
from router.wire.fields import read_fields
from router.wire.openai import APIS, ApiSpec, read_body

# Which API a body is for, when it is not said: by the field that only that API has.
_MARKS = (("messages", "/v1/chat/completions"), ("prompt", "/v1/completions"), ("documents", "/v1/rerank"),
          ("text_1", "/v1/score"), ("tokens", "/detokenize"), ("input", "/v1/responses"))  # fmt: skip


async def explain(
    runtime: Runtime, tenant_id: str, data: bytes, path: str | None, lane: str | None, *, live: bool = False
) -> list[str]:
    """The explanation, line by line. `live`: of the pool as it is now. Raises GatewayError as the request would."""
    gateway = runtime.gateway
    tenant = gateway.directory.by_id.get(tenant_id)
    if tenant is None:
        raise BadRequest(f"There is no tenant '{tenant_id}'. Known: {', '.join(sorted(gateway.directory.by_id))}.")
    spec = _spec(data, path)
    body = read_body(spec, data)
    served = gateway.models[tenant_id].get(body.model)
    if served is None:
        known = ", ".join(sorted(tenant.models))
        raise NotFound(
            f"The tenant has no model '{body.model}'. Known: {known}.", param="model", code="model_not_found"
        )
    measured = await gateway.services.measurer.measure(
        spec,
        body,
        len(data),
        tenant=tenant,
        root=served.root,
        estimator=served.estimator,
        request_id="explain",
        asked_lane=lane,
        now=served.pool.clock() if live else 0.0,
    )
    return list(_lines(spec, tenant.tier.name, measured, served, live=live))


def _spec(data: bytes, path: str | None) -> ApiSpec:
    if path is not None:
        if path not in APIS:
            raise BadRequest(f"'{path}' is not served. Known: {', '.join(APIS)}.")
        return APIS[path]
    fields = read_fields(data)
    return APIS[next((place for mark, place in _MARKS if mark in fields), "/v1/chat/completions")]


def _lines(spec: ApiSpec, tier: str, measured: Measured, served: ServedModel, *, live: bool) -> Iterator[str]:
    request, pool = measured.request, served.pool
    how = "counted" if measured.counted else f"estimated at {served.estimator.bytes_per_token:.2f} bytes per token"
    yield f"api        {spec.name} ({spec.path})"
    yield f"tenant     {request.tenant} (tier {tier}, priority {request.tier_priority})"
    yield f"model      {request.model} -> pool {pool.name}, engine model {served.route.engine_model}"
    yield f"tokens     {request.prompt_tokens} prompt tokens, {how}; answer of about {request.max_output_tokens}"
    yield f"lane       {request.lane.value}"
    yield f"prefix     {len(request.prefix_blocks)} blocks of about {request.tokens_per_block:.0f} tokens"
    for position, block in enumerate(request.prefix_blocks[:8]):
        yield f"           [{position}] {block:016x}"
    if len(request.prefix_blocks) > 8:
        yield f"           ... and {len(request.prefix_blocks) - 8} more"
    yield ""
    yield from _queue(measured, served, live=live)
    yield from _scores(measured, served, live=live)


def _queue(measured: Measured, served: ServedModel, *, live: bool) -> Iterator[str]:
    if not live:
        return
    desk, lane = served.pool.desk, measured.request.lane
    waiting = ", ".join(f"{count} {one.value}" for one, count in desk.queue.waiting.items())
    saturation = pool_load(served.pool.states, served.pool.clock()).saturation
    yield f"queue      {waiting} waiting; pool {saturation:.0%} saturated"
    if desk.queue.waiting[lane]:
        seconds = desk.retry_after(lane, served.pool.clock())
        yield f"           those in its lane will have been sent in about {seconds:.0f} s"


def _scores(measured: Measured, served: ServedModel, *, live: bool) -> Iterator[str]:
    pool, waiting = served.pool, Waiting(measured.request)
    now = pool.clock() if live else 0.0
    state = "as the pool is now" if live else "on an idle and healthy pool"
    yield f"profile    {pool.profile.name}, {state} (a cost is in seconds where it predicts time)"
    yield f"{'endpoint':<24} {'role':<5} {'filters':<28} {'cached':>7} {'ttft s':>9} {'cost':>9}  scores"
    roles = {state.endpoint.name: state.endpoint.role.value for state in pool.states}
    for row in pool.profile.explain(waiting, pool.states, now):
        refused = [name for name, passed in row.verdicts if not passed]
        verdict = f"refused by {refused[0]}" if refused else "passed" if row.at_once else "passed, would be held back"
        scores = ", ".join(f"{name} {value:.4f}" for name, value in row.candidate.scores)
        candidate = row.candidate
        yield (
            f"{row.endpoint:<24} {roles[row.endpoint]:<5} {verdict:<28} {candidate.cached_tokens:>7}"
            f" {candidate.ttft_seconds:>9.4f} {candidate.cost:>9.4f}  {scores}"
        )
    if pool.source is not None and not live:
        yield f"           and those that only a running gateway finds (--live): {pool.source}"
    yield ""
    view = pool.profile.look(pool.states, now)
    if isinstance(view, Rejection):
        yield f"choice     none: {view.reason.value}"
        return
    decision, at_once = pool.profile.preview(waiting, view)
    when = "" if at_once else ", held back until it is nearly free"
    yield f"choice     {decision.choice.state.endpoint.name}{when}"


def assume_healthy(runtime: Runtime) -> None:
    """An explanation is about a pool whose engines are up: nobody has probed them here."""
    for pool in runtime.pools.values():
        for state in pool.states:
            while not state.available(0.0):
                state.health.probe(True, 0.0)
