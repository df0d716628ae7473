"""This node's side of its cloud: the link to it, and the grant it issues."""
