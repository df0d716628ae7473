"""This node's side of its cloud: the link to it, and the grant it issues.

Others use `ask.ask_cloud`, `uplink.Uplink`, and the messages and facts in `messages.py`.
"""
