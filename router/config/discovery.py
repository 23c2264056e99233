"""The sections of endpoints that are found at run time: `pools.<name>.discovery`, and `kubernetes`, whose API tells.

Floor: keys only; a field's type, bounds, default and description are all there is to say of it. Times are seconds.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal

from annotated_types import Ge, Le
from pydantic import AfterValidator, BeforeValidator, Field

from policies.types import Role
from router.config.section import Section
from router.config.types import (
    NO_BOOL,
    Count,
    EngineUrl,
    Expect,
    FileName,
    Host,
    Namespace,
    Seconds,
    SecondsOrNone,
    Weight,
    host_name,
    matching,
)
from router.wire.selectors import LABEL, read_selector

SELECTOR_WORDS = "a label selector such as app=vllm,model!=old,tier in (gold,silver)"


def _selector(text: str) -> str:
    read_selector(text)
    return text.strip()


def _srv_name(text: str) -> str:
    """`_service._proto.` and a host, which alone must look like one."""
    parts = re.fullmatch(r"(_[a-z0-9-]{1,62}\._(?:tcp|udp))\.(.+)", text.lower())
    if parts is None:
        raise ValueError
    return f"{parts[1]}.{host_name(parts[2])}"


def _dns_server(text: str) -> str:
    """An address, with a port where that is not 53."""
    parts = re.fullmatch(r"\[([0-9A-Fa-f:.]+)\]:(\d{1,5})|([0-9.]+):(\d{1,5})|([0-9A-Fa-f:.]+)", text)
    if parts is None or not 0 < int(parts[2] or parts[4] or 53) <= 65535:
        raise ValueError
    ipaddress.ip_address(parts[1] or parts[3] or parts[5])
    return text


def _pod_port(value: object) -> str:
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    named = re.fullmatch(r"(?=[0-9-]*[a-z])[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?", text)
    if not named and not (re.fullmatch(r"[1-9][0-9]{0,4}", text) and int(text) <= 65535):
        raise ValueError
    return text


ObjectName = Annotated[str, *matching(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", "the name of an object")]
Selector = Annotated[str, AfterValidator(_selector), Expect(SELECTOR_WORDS)]
LabelKey = Annotated[str, *matching(LABEL, "the key of a label")]
SrvName = Annotated[
    str, AfterValidator(_srv_name), Expect("a name of SRV records such as _http._tcp.vllm.llm-acme.svc.cluster.local")
]
DnsServer = Annotated[str, AfterValidator(_dns_server), Expect("an IP address, with a port where that is not 53")]
PortNumber = Annotated[int, NO_BOOL, Ge(1), Le(65535)]
PodPort = Annotated[str, BeforeValidator(_pod_port), Expect("a port's number, or its name in the containers")]


class DnsDiscoveryConfig(Section):
    name: Host | None = Field(
        default=None, description="A DNS name; each of its addresses is an endpoint (a headless Service)."
    )
    port: PortNumber | None = Field(default=None, description="The engines' port, with `name`.")
    srv: SrvName | None = Field(
        default=None,
        description="In place of both, a name of SRV records: each is an endpoint, with the port and weight that it "
        "says; needs promptlane[dns].",
    )
    server: DnsServer | None = Field(
        default=None,
        description="Who is asked for SRV records (`10.0.0.2`, `10.0.0.2:8600`); null: the system's servers.",
    )
    keep_seconds: SecondsOrNone = Field(
        default=300.0,
        description="Seconds for which what is known stays though the servers say that there is no such name.",
    )
    every_seconds: Seconds = Field(default=5.0, description="Seconds between two look-ups.")
    timeout: Seconds = Field(default=5.0, description="Seconds after which a look-up counts as failed.")


class KubernetesDiscoveryConfig(Section):
    namespace: Namespace = Field(description="The namespace of the pods; no other is looked at.")
    selector: Selector = Field(description="Label selector of the pods.")
    port: PodPort = Field(description="The engines' port: its number, or its name in the containers.")
    role_label: LabelKey = Field(
        default="promptlane/role", description="Label of a pod that says hot, warm or cold, in place of `role`."
    )
    weight_annotation: LabelKey = Field(
        default="promptlane/weight", description="Annotation of a pod that says its weight, in place of `weight`."
    )


class DiscoveryConfig(Section):
    dns: DnsDiscoveryConfig | None = Field(default=None, description="By the addresses of a DNS name.")
    kubernetes: KubernetesDiscoveryConfig | None = Field(
        default=None, description="By the pods that a label selector finds, or this; one of the two."
    )
    scheme: Literal["http", "https"] = Field(
        default="http", description="How engines are spoken to; with https their certificates must name the address."
    )
    role: Role = Field(default=Role.HOT, description="When those serve that say nothing of it.")
    weight: Weight = Field(default=1.0, description="How much one takes beside the others, as with endpoints.")
    hourly_cost: Annotated[float, NO_BOOL, Ge(0), Le(1e6)] = Field(
        default=0.0, description="Cost per hour of each, any currency."
    )
    max_in_flight: Count = Field(default=256, description="Requests that each gets at once.")
    kv_capacity_tokens: Count | None = Field(
        default=None, description="KV capacity of each in tokens; null: from its metrics."
    )
    kv_events_port: PortNumber | None = Field(
        default=None, description="Where each publishes its KV events, for pools with `kv_events`; on its own address."
    )
    kv_replay_port: PortNumber | None = Field(
        default=None, description="Where each tells missed ones again; null: nowhere."
    )


class KubernetesConfig(Section):
    api_url: EngineUrl | None = Field(
        default=None, description="The API server; null: that of the cluster in which the gateway runs."
    )
    token_file: FileName | None = Field(
        default=None,
        description="File with a bearer token, read anew for every call; null: the service account's, if there is one.",
    )
    ca_file: FileName | None = Field(
        default=None, description="Authorities of the API server, PEM; null: the service account's, or the system's."
    )
    timeout: Seconds = Field(default=10.0, description="Seconds that an answer of the API may take.")
    watch_seconds: Annotated[float, NO_BOOL, Ge(1), Le(3600)] = Field(
        default=60.0, description="Seconds that one watch lasts; a connection that has died is noticed by then."
    )


class ScaleConfig(Section):
    """What a hook sets the number of replicas of."""

    namespace: Namespace = Field(description="Its namespace.")
    kind: Literal["Deployment", "StatefulSet"] = Field(default="Deployment", description="What is scaled.")
    name: ObjectName = Field(description="Its name.")
    replicas: Annotated[int, NO_BOOL, Ge(0), Le(100)] | None = Field(
        default=None, description="The number that is set; null: 1 to start, 0 to stop."
    )
