"""Who is supernode.

Others use `elector.Elector`, `host_facts.HostFacts`, `roster.Roster`, `settings.ElectionSettings`, and the messages and
facts in `messages.py`; simulations use `election.Election` itself.
"""
