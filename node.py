"""The composition root: from a spec to the supervised tree of a node, a relay or the cloud."""
