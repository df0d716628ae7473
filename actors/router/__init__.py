"""How to reach a node, with the reason.

Others use `router.Router`, the messages and facts in `messages.py`, and, as whoever carries records, `paths.py`.
"""
