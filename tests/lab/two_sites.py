"""The smallest cluster in which something goes from site to site: a node each, a cloud, two relays."""


def small(nat="none"):
    """Give the spec as text, with this kind of NAT before both sites; what is added behind is said of `office/desk`."""
    return f"""
name = "small"
[[cloud]]
name = "cloud"
[[relay]]
name = "relay-1"
[[relay]]
name = "relay-2"
[[site]]
name = "home"
nat = "{nat}"
[[site.node]]
name = "tv"
[[site]]
name = "office"
nat = "{nat}"
[[site.node]]
name = "desk"
"""


SMALL = small()
