"""Blobs between nodes: files by their digest, in verified chunks, over streams, resumed after any crash.

Others use `blobs.Blobs` and the messages in `messages.py`.
"""
