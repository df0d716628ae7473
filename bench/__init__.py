"""Benchmarks: scenario by scenario, each beside a raw baseline in the same run."""
