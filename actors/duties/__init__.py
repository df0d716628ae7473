"""The duties of a supernode: registrar and proxy.

Others use `duties.Duties`, `offer.Offer`, and the messages and facts in `messages.py`.
"""
