"""Who runs which exclusive actor: a register on the voters of the site's roster.

Others ask the actor `placement` of any member with `FindPlace`, `SwapPlace`, `RemovePlace` and `ListPlaces`
(`messages.py`); node.py spawns `placement_actor.PlacementActor`; simulations use `placement.Placement`.
"""
