"""Actors that move with their state: logs on stores, owners, moves, callers.

Others use the shells, `application.py`, and the messages and facts in `messages.py`.
"""
