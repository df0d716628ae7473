"""Images between the members of a site: who has one, and its bytes, by digest.

Others use `exchange.ImageExchange`, `blob_store.BlobStore` and the messages in `messages.py`; the duty `cache` stands
in `actors/duties/cache.py`.
"""
