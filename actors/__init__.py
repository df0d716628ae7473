"""The actors of a node, and the runtime they run on."""
