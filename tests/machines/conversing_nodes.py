"""Nodes whose conversations meet on paths in one process, in virtual time."""

from collections import deque

from atoll.actors.router.conversation import Moved, PathGone, Said
from atoll.actors.router.conversations import Conversations
from atoll.actors.router.routes import Way
from atoll.transport.base import Standing
from atoll.transport.errors import Refused, Unreachable
from atoll.transport.keys import NodeKey

GRANT = b"a grant"
KEYS = [NodeKey(bytes([number]) * 32) for number in range(1, 4)]


class End:
    """One end of a path: what is sent goes to the other end's node when the test lets it."""

    def __init__(self, wire, node, way, relay, record_bytes_max):
        self.wire, self.node, self.way, self.relay = wire, node, way, relay
        self.record_bytes_max = record_bytes_max
        self.other = None
        self.closed = self.abandoned = False
        self.takes_more = True
        self.through = ""
        self.trouble = None
        self.sent = []

    def send(self, record):
        if self.trouble is not None:
            raise self.trouble
        if self.closed:
            raise Unreachable("this path is closed")
        assert len(record) <= self.record_bytes_max
        self.sent.append(record)
        self.wire.append((self.other, record))

    def close(self):
        self.closed = True

    def abandon(self):
        self.closed = self.abandoned = True


class Node:
    """A node's conversations, and all that they told."""

    def __init__(self, world, key):
        self.world, self.key = world, key
        self.turns = []
        self.conversations = Conversations(key, self.judge, self.turns.append)

    @property
    def id(self):
        return self.key.node_id

    def judge(self, peer, grant):
        if grant != GRANT:
            raise Refused("this grant is none")
        return Standing.GRANTED

    def dial(self, peer, *ends, grant=GRANT):
        return self.conversations.dial(peer.id, ends, grant, self.world.now)

    def said(self):
        return [turn.data for turn in self.turns if isinstance(turn, Said)]

    def turning_points(self):
        """All turns but those that only say which path is in use, or that one is not any more."""
        return [
            turn
            for turn in self.turns
            if not isinstance(turn, PathGone) and not (isinstance(turn, Moved) and not turn.lost)
        ]

    def kinds(self):
        return [type(turn).__name__ for turn in self.turning_points()]

    def last(self):
        return self.turning_points()[-1]


class World:
    """Nodes, paths between them, and a clock that the test moves."""

    def __init__(self):
        self.now = 1000.0
        self.wire = deque()
        self.nodes = [Node(self, key) for key in KEYS]

    def path(self, one, other, way=Way.SEP, relay="relay-1", record_bytes_max=48 * 1024):
        first, second = (End(self.wire, node, way, relay, record_bytes_max) for node in (one, other))
        first.other, second.other = second, first
        return first

    def carry(self, lost=()):
        while self.wire:
            end, record = self.wire.popleft()
            if end not in lost:
                end.node.conversations.take(end, record, self.now)

    def wait(self, seconds, lost=()):
        """Let time pass in steps of a quarter second, as the Router does."""
        until = self.now + seconds
        while self.now < until:
            self.now += 0.25
            for node in self.nodes:
                node.conversations.tick(self.now)
            self.carry(lost)


def established(world, caller, callee, *paths, **fields):
    paths = paths or (world.path(caller, callee, **fields),)
    conversation = caller.dial(callee, *paths)
    world.carry()
    assert conversation.established
    answered = callee.conversations.with_peer(caller.id)
    return conversation, answered
