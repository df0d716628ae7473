"""What a node is made of, from its config: the actors and what they are given. `node.py` runs it."""
