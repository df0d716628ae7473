"""Publish and subscribe: topics within a site without a broker, and across sites through gates.

Others use `topics.Topics`, `subscription.Subscription` and the orders in `orders.py`.
"""
