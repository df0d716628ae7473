"""Cluster specs and configs: the TOML files that describe whole clusters and single processes, and their readers."""

from atoll.cluster_specs.config import (
    CloudConfig,
    NodeConfig,
    ProcessConfig,
    RelayConfig,
    Settled,
    read_config,
)
from atoll.cluster_specs.plan import Materials, PlannedProcess, Seat, plan
from atoll.cluster_specs.reading import Secret, SpecInvalid
from atoll.cluster_specs.spec import (
    CallCheck,
    Check,
    CloudSpec,
    ClusterSpec,
    FaultSpec,
    NodeSpec,
    RelaySpec,
    SiteSpec,
    read_spec,
    shipped_specs,
)

__all__ = [
    "CallCheck",
    "Check",
    "CloudConfig",
    "CloudSpec",
    "ClusterSpec",
    "FaultSpec",
    "Materials",
    "NodeConfig",
    "NodeSpec",
    "PlannedProcess",
    "ProcessConfig",
    "RelayConfig",
    "RelaySpec",
    "Seat",
    "Secret",
    "Settled",
    "SiteSpec",
    "SpecInvalid",
    "plan",
    "read_config",
    "read_spec",
    "shipped_specs",
]
