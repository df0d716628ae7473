"""What executes a container's code."""
