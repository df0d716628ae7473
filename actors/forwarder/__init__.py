"""TCP ports through the best path: `atoll forward`.

Others use `forwarder.Forwarder` and the orders in `messages.py`.
"""
