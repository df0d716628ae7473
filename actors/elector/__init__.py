"""Who is supernode.

Others use `elector.Elector`, `host_facts.HostFacts`, `roster.Roster`, `settings.ElectionSettings`, and the messages and
facts in `messages.py`; simulations use `election.Election` itself, whose state is in
`election_state.py` and whose rosters are in `election_rosters.py`.
"""
