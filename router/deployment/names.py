"""Names that manifests, rules and people share.

Floor: constants only.
"""

from __future__ import annotations

TENANT = "promptlane/tenant"  # of namespaces, pods and nodes: whose they are
TIER = "promptlane/tier"
POOL = "promptlane/pool"
ROLE = "promptlane/role"  # hot, warm, cold
PART = "promptlane/part"  # engine, prepull
CLASS = "promptlane/class"  # online, batch
ENGINE = "promptlane/engine"  # the workload's name: what its Service selects
NAME = "app.kubernetes.io/name"
NAMESPACE_NAME = "kubernetes.io/metadata.name"  # the API server labels every namespace with its name
GATEWAY = {NAME: "promptlane"}
GATEWAY_ACCOUNT = "promptlane"
POD_SECURITY = "pod-security.kubernetes.io"
# Counted by a quota: ways into a namespace that a policy does not see.
WAYS_IN = ("services.nodeports", "services.loadbalancers")
ONLINE_HIGH, ONLINE, BATCH = "llm-online-high", "llm-online", "llm-batch"
