"""Ports that nobody uses, and such that answer nobody."""

import contextlib
import socket


def free_port(kind=socket.SOCK_STREAM):
    """Give a port of this host that is free now; whoever wants it should take it at once."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def black_holes(count):
    """Ports that answer no SYN: sockets whose queue of connections is full, as a dead host behind a live switch."""
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(count):
            hole = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
            for _ in range(3):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(hole.getsockname())
            ports.append(hole.getsockname()[1])
        yield ports
