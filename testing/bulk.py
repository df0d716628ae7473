"""`python -m atoll.testing.bulk`: one end of a long transfer over TCP, as a program that knows nothing of Atoll.

    --listen PORT or --connect PORT    at 127.0.0.1, one connection
    --send BYTES                       says so many bytes, each 64 KiB of them unlike all others, and ends its direction
    --receive BYTES                    compares each with what it must be, and tells as JSON lines how far it is:
                                       {"at": …} ten times; then {"bytes": …, "stall_s": …, "took_s": …}, exit 0

Exit 1, with a sentence: a byte was wrong, missing or too many, or the connection broke.
"""

import hashlib
import json
import socket
import sys
import time
from collections.abc import Iterator

import click

CHUNK_BYTES = 65_536
READ_BYTES = 262_144
PATIENCE_S = 60.0


def chunks(size: int) -> Iterator[bytes]:
    """Give what is sent, in order."""
    block = hashlib.shake_256(b"atoll bulk").digest(CHUNK_BYTES)
    for number in range(-(-size // CHUNK_BYTES)):
        # Its number in front, and a hash of it behind: a piece in the wrong place shows at both ends.
        head = number.to_bytes(8, "big")
        chunk = head + block[8:-8] + hashlib.blake2b(head, digest_size=8).digest()
        yield chunk[: size - number * CHUNK_BYTES]


def _connected(listen: int | None, connect: int | None) -> socket.socket:
    if listen is not None:
        with socket.create_server(("127.0.0.1", listen)) as server:
            server.settimeout(PATIENCE_S)
            print(json.dumps({"listening": True}), flush=True)  # noqa: T201 - a program's output
            return server.accept()[0]
    return socket.create_connection(("127.0.0.1", connect or 0), timeout=PATIENCE_S)


def _send(sock: socket.socket, size: int) -> None:
    for chunk in chunks(size):
        sock.sendall(chunk)
    sock.shutdown(socket.SHUT_WR)
    if sock.recv(1):
        sys.exit("the receiver said something")


def _receive(sock: socket.socket, size: int) -> None:
    began = heard = time.monotonic()
    got, stall_s, wanted, told = 0, 0.0, b"", 0
    source = chunks(size)
    while data := sock.recv(READ_BYTES):
        now = time.monotonic()
        if got:
            stall_s = max(stall_s, now - heard)
        heard = now
        while len(wanted) < len(data):
            if not (chunk := next(source, b"")):
                sys.exit(f"more than {size} bytes came")
            wanted += chunk
        if wanted[: len(data)] != data:
            sys.exit(f"what came behind {got} bytes is not what was sent")
        wanted = wanted[len(data) :]
        got += len(data)
        if got * 10 // size > told:
            told = got * 10 // size
            print(json.dumps({"at": got}), flush=True)  # noqa: T201 - a program's output
    if got != size:
        sys.exit(f"{got} bytes came of {size}")
    took_s = time.monotonic() - began
    print(json.dumps({"bytes": got, "stall_s": stall_s, "took_s": took_s}), flush=True)  # noqa: T201


@click.command()
@click.option("--listen", type=int)
@click.option("--connect", type=int)
@click.option("--send", type=int)
@click.option("--receive", type=int)
def command(listen: int | None, connect: int | None, send: int | None, receive: int | None) -> None:
    """Be one end."""
    if (listen is None) == (connect is None) or (send is None) == (receive is None):
        raise click.UsageError("say one of --listen and --connect, and one of --send and --receive")
    try:
        with _connected(listen, connect) as sock:
            sock.settimeout(PATIENCE_S)
            if send is not None:
                _send(sock, send)
            elif receive is not None:
                _receive(sock, receive)
    except OSError as error:
        sys.exit(f"the connection failed: {error}")


if __name__ == "__main__":
    command()
