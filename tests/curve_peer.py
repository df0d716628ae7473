"""A peer that speaks CurveZMQ by hand over a plain TCP socket: ZMTP 3.1 (RFC 37), CURVE (RFC 26).

It can do what libzmq never does: write messages and a PING in one piece and reset the connection in the same moment.
"""

import contextlib
import os
import socket
import struct

import nacl.bindings as sodium

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0")
PING = b"\x04PING" + struct.pack(">H", 100) + b"context"


def metadata(kind):
    return b"\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind + b"\x08Identity" + bytes(4)


def frame(flags, body):
    if len(body) < 256:
        return bytes((flags, len(body))) + body
    return bytes((flags | 2,)) + struct.pack(">Q", len(body)) + body


class CurvePeer:
    """One end of a connection; `dial` and `take` shake hands."""

    def __init__(self, sock, key, *, sends, hears):
        self.sock, self.key, self._count = sock, key, 2
        self._sends, self._hears = sends, hears
        self._short = sodium.crypto_box_keypair()

    @classmethod
    def dial(cls, server, port, key, *, host="127.0.0.1"):
        """Dial whoever has the X25519 key `server`; `key` is an X25519 pair, public first."""
        self = cls(socket.create_connection((host, port), 10), key, sends=b"C", hears=b"S")
        public, secret = self._short
        self.sock.sendall(GREETING + b"\0" + bytes(31))
        self._exactly(64)
        signature = sodium.crypto_box(bytes(64), b"CurveZMQHELLO---" + _nonce(1), server, secret)
        self.sock.sendall(frame(4, b"\x05HELLO\x01\0" + bytes(72) + public + _nonce(1) + signature))
        welcome = self._body()
        opened = sodium.crypto_box_open(welcome[24:], b"WELCOME-" + welcome[8:24], server, secret)
        other, cookie = opened[:32], opened[32:]
        self._shared = sodium.crypto_box_beforenm(other, secret)
        salt = os.urandom(16)
        vouch = salt + sodium.crypto_box(public + server, b"VOUCH---" + salt, other, key[1])
        said = self._seal(b"CurveZMQINITIATE" + _nonce(2), key[0] + vouch + metadata(b"DEALER"))
        self.sock.sendall(frame(4, b"\x08INITIATE" + cookie + _nonce(2) + said))
        if not self._body().startswith(b"\x05READY"):
            raise ConnectionError("the other end refuses the handshake")
        return self

    @classmethod
    def take(cls, listener, key):
        """Take one connection as the server that has `key`."""
        sock, _ = listener.accept()
        sock.settimeout(10)
        self = cls(sock, key, sends=b"S", hears=b"C")
        public, secret = self._short
        sock.sendall(GREETING + b"\1" + bytes(31))
        self._exactly(64)
        hello = self._body()
        client = hello[80:112]
        salt, cookie = os.urandom(16), os.urandom(96)
        welcome = sodium.crypto_box(public + cookie, b"WELCOME-" + salt, client, key[1])
        sock.sendall(frame(4, b"\x07WELCOME" + salt + welcome))
        self._body()
        self._shared = sodium.crypto_box_beforenm(client, secret)
        said = self._seal(b"CurveZMQREADY---" + _nonce(1), metadata(b"ROUTER"))
        sock.sendall(frame(4, b"\x05READY" + _nonce(1) + said))
        return self

    def message(self, data, *, flags=0):
        """Seal one message; `flags` 1 says that more follows, 2 makes it a command."""
        self._count += 1
        sealed = self._seal(b"CurveZMQMESSAGE" + self._sends + _nonce(self._count), bytes((flags,)) + data)
        return frame(0, b"\x07MESSAGE" + _nonce(self._count) + sealed)

    def ping(self):
        """Seal a PING of ZMTP's own heartbeats."""
        return self.message(PING, flags=2)

    def say(self, *messages):
        """Send whole messages."""
        self.sock.sendall(b"".join(self.message(each) for each in messages))

    def hear(self):
        """Give the next message."""
        while True:
            body = self._body()
            opened = self._open(b"CurveZMQMESSAGE" + self._hears + body[8:16], body[16:])
            if not opened[0] & 2:
                return opened[1:]

    def reset(self):
        """End the connection with a RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def break_off(self, *data):
        """Write all of it at once and reset; the other end may be faster and cut first."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock.sendall(b"".join(data))
        self.reset()

    def _seal(self, nonce, data):
        return sodium.crypto_box_afternm(data, nonce, self._shared)

    def _open(self, nonce, data):
        return sodium.crypto_box_open_afternm(data, nonce, self._shared)

    def _exactly(self, count):
        data = b""
        while len(data) < count:
            more = self.sock.recv(count - len(data))
            if not more:
                raise ConnectionError("the other end has closed")
            data += more
        return data

    def _body(self):
        flags, size = self._exactly(2)
        if flags & 2:
            size = int.from_bytes(bytes((size,)) + self._exactly(7), "big")
        return self._exactly(size)


def _nonce(count):
    return count.to_bytes(8, "big")
