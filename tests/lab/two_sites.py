"""The smallest cluster in which something goes from site to site: a node each, a cloud, two relays."""

SMALL = """
name = "small"
[[cloud]]
name = "cloud"
[[relay]]
name = "relay-1"
[[relay]]
name = "relay-2"
[[site]]
name = "home"
[[site.node]]
name = "tv"
[[site]]
name = "office"
[[site.node]]
name = "desk"
"""
"""A spec as text; what is added behind it is said of `office/desk`."""
