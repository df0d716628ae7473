"""Hosts and stores of migratable actors whose messages arrive at once, and a placement that answers."""

from collections import deque
from random import Random

from atoll.actors.hand_over.hosting import Hosting
from atoll.actors.hand_over.log_store import LogStore
from atoll.actors.hand_over.messages import (
    HOSTING,
    LOG_STORE,
)
from atoll.actors.hand_over.orders import Found
from atoll.actors.placement.messages import FindPlace, PlaceFound, PlaceSwapped, SwapPlace
from atoll.actors.runtime.machine import Announce, Received, Send, Told
from atoll.testing.elections import simulated_node

A, B, C = (simulated_node(number) for number in range(3))


class Notebook:
    """Keeps what it is given."""

    def __init__(self):
        self.text = b""

    def apply(self, operation, _number):
        self.text += operation
        return str(len(self.text)).encode()

    def snapshot(self):
        return self.text

    def restore(self, data):
        self.text = data

    def end(self):
        pass


class Net:
    """Carries messages between hosts and stores at once, and answers for the placement."""

    def __init__(self, *nodes):
        self.hosts = {node: Hosting(node, rng=Random(str(node)), make=lambda *_: Notebook()) for node in nodes}
        self.stores = {node: LogStore(rng=Random(repr(node))) for node in nodes}
        self.places = {}
        self.answers = []
        self.queue = deque()
        self.facts = []
        self.lost = lambda _send: False

    def tell(self, node, fact):
        self.carry(node, self.hosts[node].handle(Told(fact), 0.0))

    def call(self, node, call):
        self.carry(node, self.hosts[node].handle(Received(C, call), 0.0))
        return self.answers[-1]

    def carry(self, node, effects):
        self.put(node, effects)
        while self.queue:
            self.deliver(*self.queue.popleft())
        for machine in (*self.hosts.values(), *self.stores.values()):
            machine.check()

    def put(self, node, effects):
        self.facts += [effect.fact for effect in effects if isinstance(effect, Announce)]
        self.queue += [(node, effect) for effect in effects if isinstance(effect, Send) and not self.lost(effect)]

    def deliver(self, node, send):
        message = send.message
        if isinstance(message, FindPlace):
            self.put(node, self.hosts[node].handle(Received(A, PlaceFound(message.actor, self.places.get("x"))), 0.0))
        elif isinstance(message, SwapPlace):
            done = self.places.get("x") == message.expected
            if done:
                self.places["x"] = message.wanted
            answer = PlaceSwapped(message.actor, done, self.places["x"])
            self.put(node, self.hosts[node].handle(Received(A, answer), 0.0))
        elif send.path == LOG_STORE:
            self.put(send.target, self.stores[send.target].handle(Received(node, message), 0.0))
        elif send.path in ("", HOSTING):
            self.put(send.target, self.hosts[send.target].handle(Received(node, message), 0.0))
        else:
            self.answers.append(message)


def found(stores=(A, B, C)):
    net = Net(A, B, C)
    net.tell(A, Found("x", "Notebook", stores))
    return net
