"""Who is near.

Others use `discoverer.Discoverer` and the messages and facts in `messages.py`.
"""
