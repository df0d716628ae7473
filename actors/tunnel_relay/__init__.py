"""Tunnels: the dialling end on every node, and the relay that serves them.

Others use `tunnel_relay.TunnelRelay` with its `messages.py`, `relay.Relay` with `reporter.reporting`, and `tickets.py`
to issue what a relay checks.
"""
