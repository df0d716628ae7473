"""The REST interface of a node.

Others use `gateway.Gateway` with its `GatewaySettings`, `live_node.LiveNode` behind it, the messages in `messages.py`,
and what clients read: the `*_views.py`, `problems.py`.
"""
