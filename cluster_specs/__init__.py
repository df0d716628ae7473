"""Cluster specs: the TOML files that describe sites, relays and clouds, and their reader."""

from atoll.cluster_specs.spec import (
    Check,
    CloudSpec,
    ClusterSpec,
    FaultSpec,
    NodeSpec,
    RelaySpec,
    SiteSpec,
    SpecInvalid,
    read_spec,
    shipped_specs,
)

__all__ = [
    "Check",
    "CloudSpec",
    "ClusterSpec",
    "FaultSpec",
    "NodeSpec",
    "RelaySpec",
    "SiteSpec",
    "SpecInvalid",
    "read_spec",
    "shipped_specs",
]
