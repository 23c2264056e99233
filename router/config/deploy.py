"""The sections of what a configuration says to Kubernetes: `deploy`, and `pools.<name>.deploy`.

Floor: keys only; a field's type, bounds, default and description are all there is to say of it. The gateway itself
reads none of them: `promptlane render` and `promptlane audit` do.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le, MaxLen
from pydantic import Field

from router.config.section import Section
from router.config.types import DNS_LABEL, NO_BOOL, ModelName, Namespace, Word, matching

DEFAULT_PREFIX = "llm-"
DEFAULT_RESOURCE = "nvidia.com/gpu"
TIME_SLICES = ".shared"  # how NVIDIA's device plugin renames GPUs that several containers take turns on


NamespacePrefix = Annotated[str, *matching(r"[a-z0-9][a-z0-9-]{0,30}", "the beginning of a namespace's name")]
Image = Annotated[
    str,
    *matching(
        r"[a-z0-9][a-z0-9._:/-]{0,300}(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}|@sha256:[0-9a-f]{64})",
        "an image with its tag or digest",
    ),
]
Resource = Annotated[
    str,
    *matching(
        rf"({DNS_LABEL}\.)+{DNS_LABEL}/[A-Za-z0-9]([A-Za-z0-9._-]{{0,61}}[A-Za-z0-9])?",
        "a resource such as nvidia.com/gpu, nvidia.com/mig-3g.40gb or nvidia.com/gpu.shared",
    ),
]
Quantity = Annotated[str, *matching(r"[1-9][0-9]{0,9}(m|Mi|Gi|Ti)?", "a quantity such as 4, 500m or 64Gi")]
HowMany = Annotated[int, NO_BOOL, Ge(0), Le(256)]


class DeployConfig(Section):
    gateway_namespace: Namespace = Field(
        default="promptlane", description="Namespace of the gateway, which alone reaches engines."
    )
    namespace_prefix: NamespacePrefix = Field(
        default=DEFAULT_PREFIX,
        description="Tenant `acme` has namespace `llm-acme`, a shared pool `p` `llm-shared-p`.",
    )


class EnginesConfig(Section):
    hot: HowMany = Field(default=1, description="Those that serve.")
    warm: HowMany = Field(default=0, description="Those that sleep.")
    cold: HowMany = Field(default=0, description="Those that run once they are needed: GPUs for as many, no pod.")


class PoolDeployConfig(Section):
    image: Image = Field(default="vllm/vllm-openai:v0.32.0", description="The engines' image, with its tag or digest.")
    model: ModelName | None = Field(
        default=None, description="What they load, by name or folder; null: what tenants' models call it."
    )
    resource: Resource = Field(
        default=DEFAULT_RESOURCE,
        description="What an engine is given: whole GPUs, a MIG profile or time slices (`….shared`).",
    )
    count: Annotated[int, NO_BOOL, Ge(1), Le(64)] = Field(default=1, description="How many of it for each engine.")
    engines: EnginesConfig | None = Field(
        default=None, description="How many run where the pool finds them (`discovery`); null: as its tier has it."
    )
    own_nodes: bool = Field(
        default=True,
        description="Whether they run on nodes of their tenant alone; false: of its tier. Time slices need the first.",
    )
    cpu: Quantity = Field(default="4", description="CPU of each engine.")
    memory: Quantity = Field(default="32Gi", description="Memory of each; a sleeping one keeps its weights there.")
    models_volume: Quantity = Field(default="100Gi", description="Size of the volume that models are read from.")
    batch: bool = Field(default=False, description="Whether others may preempt them: engines for batch work.")
    arguments: Annotated[tuple[Word, ...], MaxLen(64)] = Field(
        default=(), description="Further arguments of vLLM, beside those that routing needs."
    )
