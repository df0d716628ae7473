"""Ports that nobody uses."""

import socket


def free_port(kind=socket.SOCK_STREAM):
    """Give a port of this host that is free now; whoever wants it should take it at once."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
