"""The configuration: one file and the environment in, one frozen `Config` out, or every mistake at once.

Floor: beside `assembly`, which alone turns a `Config` into objects; other rooms import from here, not from the files
below. Nothing here opens what the values name (files, URLs); `assembly` does. Who uses what, lowest first:

    problems                     a mistake and where it stands
    tree                         what was said, with the line or variable that said it
    yaml_file                    a file's bytes to a tree
    types                        what a single value looks like
    words                        types and mistakes in words
    section                      what every mapping of the file has in common
    profiles                     profiles composed of parts, a part of `routing`
    deploy                       how engines run in Kubernetes, and how namespaces are called
    discovery                    endpoints that are found at run time, a part of `pools`, and the API that tells
    standby                      what serves when the hot endpoints cannot, a part of `pools`
    guards                       the rules of a tenant for what is said, a part of `tenants`
    server, keys, ledger, governance, routing, lanes, tenants, pools
                                 the sections: keys with types, bounds, defaults, descriptions
    models                       `Config`, the whole
    environment                  variables laid over the tree
    checks, guard_checks, deploy_checks
                                 what must hold between values
    warning                      what is allowed and probably not meant
    docs                         the keys for README.md here
    loading                      all of that in order

A new key is one field of a section: the check, the messages and README.md's table all read it there.
"""

from router.config.deploy import DeployConfig, PoolDeployConfig
from router.config.discovery import DiscoveryConfig, DnsDiscoveryConfig, KubernetesConfig, KubernetesDiscoveryConfig
from router.config.docs import KeyDoc, documented_keys
from router.config.guards import GuardConfig, ModerationConfig, PresidioConfig, RequestsConfig
from router.config.keys import KeysConfig
from router.config.lanes import LaneConfig, LanesConfig, lane_policies
from router.config.ledger import LedgerConfig
from router.config.loading import load, loads, read
from router.config.models import Config
from router.config.pools import EndpointConfig, EngineTlsConfig, HealthConfig, PoolConfig, TimeoutsConfig
from router.config.problems import ConfigError, Problem
from router.config.profiles import ProfileConfig
from router.config.routing import RoutingConfig, profile_specs, queue_order
from router.config.server import (
    ClassifyConfig,
    CorsConfig,
    ReplicasConfig,
    ReplicasTlsConfig,
    ServerConfig,
    StateConfig,
    TlsConfig,
)
from router.config.standby import DegradedConfig, HookConfig, MirrorConfig, OverflowConfig, StandbyConfig
from router.config.tenants import (
    DEFAULT_TIERS,
    ApiKeyConfig,
    CacheConfig,
    LimitsConfig,
    ModelConfig,
    PricesConfig,
    TenantConfig,
    TierConfig,
)
from router.config.types import API_NAMES, KNOWN_PROFILES
from router.config.warning import warnings

__all__ = [
    "API_NAMES",
    "DEFAULT_TIERS",
    "KNOWN_PROFILES",
    "ApiKeyConfig",
    "CacheConfig",
    "ClassifyConfig",
    "Config",
    "ConfigError",
    "CorsConfig",
    "DegradedConfig",
    "DeployConfig",
    "DiscoveryConfig",
    "DnsDiscoveryConfig",
    "EndpointConfig",
    "EngineTlsConfig",
    "GuardConfig",
    "HealthConfig",
    "HookConfig",
    "KeyDoc",
    "KeysConfig",
    "KubernetesConfig",
    "KubernetesDiscoveryConfig",
    "LaneConfig",
    "LanesConfig",
    "LedgerConfig",
    "LimitsConfig",
    "MirrorConfig",
    "ModelConfig",
    "ModerationConfig",
    "OverflowConfig",
    "PoolConfig",
    "PoolDeployConfig",
    "PresidioConfig",
    "PricesConfig",
    "Problem",
    "ProfileConfig",
    "ReplicasConfig",
    "ReplicasTlsConfig",
    "RequestsConfig",
    "RoutingConfig",
    "ServerConfig",
    "StandbyConfig",
    "StateConfig",
    "TenantConfig",
    "TierConfig",
    "TimeoutsConfig",
    "TlsConfig",
    "documented_keys",
    "lane_policies",
    "load",
    "loads",
    "profile_specs",
    "queue_order",
    "read",
    "warnings",
]
