"""How to reach a node, with the reason."""
