"""Cluster specs: the TOML files that describe sites, relays and clouds, and their reader."""
