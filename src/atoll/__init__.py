"""Turn any computer into a cloud server, and any handful of them into one cloud."""
