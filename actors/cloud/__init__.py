"""The back end, as actors: directory, signaling, enrolment.

Others use `cloud.run_cloud`, the messages and names in `messages.py`, and `store.CloudStore`.
"""
