"""What the host of a node is like: measured in one place, for the election and for people.

Others use `details.measure_host` and the messages in `messages.py`.
"""
