"""Tunnels: the dialling end on every node, and the relay that serves them."""
