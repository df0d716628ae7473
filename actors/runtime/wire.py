"""Carries tells and asks between an actor here and actors of other nodes, as envelopes.

    out   message --encode--> Envelope --> outlet (the Router)
    in    Envelope --> addressed to this node? --> actor known? --> open to the sender's standing? --> asked before?
          --> body readable? --> mailbox has room? --> delivered; every no is counted, and told to an asker

It believes the header's source: whoever calls `deliver` has checked that it is the peer's. It must never raise for what
a peer sent, and never hand an actor a message from a standing that the actor is not open to.
"""

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from msgspec import structs

from atoll.actors.runtime.actor import ActorRef, Delivery, reply_type_of
from atoll.actors.runtime.alarms import Bell, Grain
from atoll.actors.runtime.asks import Answers, Ask, RemoteReply
from atoll.actors.runtime.cell import Cell
from atoll.actors.runtime.errors import (
    AskCongested,
    AskFailed,
    AskNotUnderstood,
    AskRefused,
    AskUnreachable,
    MailboxFull,
    ask_failure,
)
from atoll.actors.runtime.machine import Address, Seconds
from atoll.actors.runtime.messages import FAULT_CHARACTERS_MAX, MESSAGES, Fault, UserMessage
from atoll.transport.base import Standing
from atoll.transport.codec import Codec, Message, decode_payload, encode_payload
from atoll.transport.envelope import CORRELATION_BYTES, VERSION, Envelope, Header, Kind
from atoll.transport.errors import Congested, MalformedFrame, PeerError, Unreachable, UsageError
from atoll.transport.identity import NodeId
from atoll.transport.runs import read_run, split_run

if TYPE_CHECKING:
    from atoll.actors.runtime.system import ActorSystem

CORRELATIONS_AT_ONCE = 256
ASKS_MAX = 65_536
"""Answers that may be outstanding from other nodes; more means that nobody answers."""
SENDERS_MAX = 1024
"""References to senders that are kept for their next message."""
DEADLINE_S_MAX = 3600.0
"""An ask from elsewhere that gives itself longer is cut to this."""


class Wire:
    """The envelopes of one system."""

    def __init__(self, system: "ActorSystem", codec: Codec, outlet: Callable[[Envelope], None] | None) -> None:
        missing = [each.__name__ for each in MESSAGES if each not in codec.messages]
        if missing:
            raise UsageError(f"the codec lacks {missing}: add atoll.actors.runtime.MESSAGES to its messages")
        self._system = system
        self._codec = codec
        self._known = frozenset(codec.messages)
        self.outlet = outlet
        self.reopen: Callable[[NodeId], bool] | None = None
        self._asks: dict[bytes, tuple[NodeId, Ask, Envelope]] = {}
        self._answers = Answers()
        self._senders: dict[tuple[NodeId, str], ActorRef] = {}
        self._answerers = {standing: self._answerer(standing) for standing in Standing}
        self._correlations = _correlations()
        nobody = Header(VERSION, Kind.TELL, system.node_id, "", system.node_id, "")
        self._told = self._asked = self._answered = nobody
        """The headers of what was said last, each without correlation: what follows with the same one can be a run."""

    @property
    def asks(self) -> int:
        """How many answers from other nodes are outstanding."""
        return len(self._asks)

    def _encode(self, message: Any) -> bytes:
        if type(message) not in self._known:
            message = UserMessage(type(message).__name__, encode_payload(message))
        return self._codec.encode(message)

    def _send(self, envelope: Envelope) -> None:
        if self.outlet is None:
            raise Unreachable("no way to other nodes: this system has no outlet yet")
        self.outlet(envelope)

    def tell(self, target: Address, message: Any, source_path: str) -> None:
        """Send; what finds no way is lost and counted.

        Raises:
            Congested: The way is full.
            UsageError: The message cannot be encoded.
        """
        header, node, path = self._told, target.node, target.path
        if header.target_path != path or header.target_node != node or header.source_path != source_path:
            header = self._told = Header(VERSION, Kind.TELL, self._system.node_id, source_path, node, path)
        envelope = Envelope(header, self._encode(message), header)
        try:
            self._send(envelope)
        except Unreachable as error:
            self._system.count("unreachable")
            self._system.bury(target.path, message, str(error))

    async def ask(
        self, target: Address, message: Any, *, timeout_s: Seconds, reply_type: Any, attempts: int, traceparent: str
    ) -> Any:
        """Send, wait for the reply and read it; see `ActorSystem.ask`."""
        if len(self._asks) >= ASKS_MAX:
            raise AskCongested(f"{ASKS_MAX} asks to other nodes wait for an answer already")
        system = self._system
        correlation = next(self._correlations)
        body = self._encode(message)
        ask = Ask(system.new_promise(), target.path, timeout_s)
        begun = system.clock()
        envelope = self._question(correlation, target, max(1, round(timeout_s * 1000)), traceparent, body)
        self._asks[correlation] = (target.node, ask, envelope)
        grain = system.alarms.set(begun + timeout_s, ask)
        repeats: list[tuple[Grain, Bell]] = []
        try:
            self._attempt(envelope, ask)
            if attempts > 1:
                repeats = self._repeats(envelope, ask, begun, attempts)
            answer = await ask.promise
        finally:
            self._asks.pop(correlation, None)
            grain.discard(ask)
            for grain, bell in repeats:
                grain.discard(bell)
        if ask.failure is not None:
            raise ask.failure
        return self._read_reply(target.path, answer, reply_type_of(message) if reply_type is None else reply_type)

    def _question(
        self, correlation: bytes, target: Address, deadline_ms: int, traceparent: str, body: bytes
    ) -> Envelope:
        shared, node, path, source = self._asked, target.node, target.path, self._system.node_id
        if (
            shared.target_path != path
            or shared.target_node != node
            or shared.deadline_ms != deadline_ms
            or shared.traceparent != traceparent
        ):
            shared = Header(VERSION, Kind.ASK, source, "", node, path, b"", deadline_ms, traceparent)
            self._asked = shared
        header = Header(VERSION, Kind.ASK, source, "", node, path, correlation, deadline_ms, traceparent)
        return Envelope(header, body, shared)

    def _attempt(self, envelope: Envelope, ask: Ask) -> None:
        """Send; an ask that finds no way waits for one that is being opened, or fails at once.

        A repetition that finds the way full is left out: the answer to what went before it may come yet.
        """
        try:
            self._send(envelope)
            ask.sent = True
        except Unreachable as error:
            if self.reopen is None or not self.reopen(envelope.header.target_node):
                known = "whether it was handled is not known. " if ask.sent else ""
                ask.fail(AskUnreachable(f"{known}{error}"))
        except Congested as error:
            if not ask.sent:
                ask.fail(AskCongested(str(error)))

    def _repeats(self, envelope: Envelope, ask: Ask, begun: Seconds, attempts: int) -> list[tuple[Grain, Bell]]:
        """Set alarms for all attempts but the first, which tell how much time is left then."""
        repeats: list[tuple[Grain, Bell]] = []
        for attempt in range(1, attempts):
            left_s = ask.timeout_s * (1 - attempt / attempts)
            header = structs.replace(envelope.header, deadline_ms=max(1, round(left_s * 1000)))
            repeat = _Repeat(self._attempt, Envelope(header, envelope.body), ask)
            repeats.append((self._system.alarms.set(begun + ask.timeout_s - left_s, repeat), repeat))
        return repeats

    def awaits(self, node: NodeId) -> bool:
        """Tell whether an ask waits for an answer of `node`."""
        return any(asked == node for asked, _, _ in self._asks.values())

    def way_lost(self, node: NodeId, reason: str) -> None:
        """Send what waits for an answer of `node` again, over the way that is left; fail it where none is."""
        for asked, ask, envelope in tuple(self._asks.values()):
            if asked == node and not ask.promise.done():
                try:
                    self._send(envelope)
                    ask.sent = True
                except (Unreachable, Congested) as error:
                    known = "whether it was handled is not known" if ask.sent else "it was not sent"
                    text = "; ".join(filter(None, (reason, known))) + f". {error}"
                    ask.fail(AskCongested(text) if isinstance(error, Congested) else AskUnreachable(text))

    def _read_reply(self, path: str, answer: Message, reply_type: Any) -> Any:
        if not isinstance(answer, UserMessage):
            of_codec = isinstance(reply_type, type) and issubclass(reply_type, Message)
            if of_codec and not isinstance(answer, reply_type):
                raise AskNotUnderstood(
                    f"{path} answered with {type(answer).__name__} where only {reply_type.__name__} is an answer"
                )
            return answer
        try:
            return decode_payload(answer.payload, reply_type)
        except MalformedFrame as error:
            raise AskNotUnderstood(f"{path} answered with {answer.name}, which cannot be read here: {error}") from error

    def deliver(self, envelope: Envelope, standing: Standing) -> None:
        """Take an envelope that came from another node; see the module."""
        header = envelope.header
        if header.run:
            self._take_run(envelope, standing)
        elif header.target_node != self._system.node_id:
            self._refuse(header, AskUnreachable("this is another node"), "misdirected")
        elif header.kind is Kind.REPLY or header.kind is Kind.FAULT:
            self._take_answer(envelope)
        else:
            self._take_message(envelope, standing)

    def _take_run(self, envelope: Envelope, standing: Standing) -> None:
        """Take several messages: together where nothing is to be said about any of them, else one by one."""
        header = envelope.header
        try:
            ids, bodies = read_run(envelope)
        except MalformedFrame as error:
            self._refuse(header, AskNotUnderstood(str(error)))
            return
        if header.kind is Kind.TELL and self._take_tells(header, bodies, standing):
            return
        for each in split_run(header, ids, bodies):
            self.deliver(each, standing)

    def _take_tells(self, header: Header, bodies: list[bytes], standing: Standing) -> bool:
        """Take tells that have a header in common; False, and nothing is done, when one of them is to be refused."""
        cell = self._system.cell(header.target_path)
        if cell is None or standing not in cell.open_to or header.deadline_ms:
            return False
        if header.target_node != self._system.node_id:
            return False
        try:
            messages = self._decode_all(cell, bodies)
        except MalformedFrame:
            return False
        sender = self._sender(header)
        return cell.mailbox.put_all([Delivery(message, sender, None, None, standing) for message in messages])

    def _take_answer(self, envelope: Envelope) -> None:
        header = envelope.header
        asked = self._asks.get(header.correlation)
        if asked is None:
            self._system.count("late_answers")
            return
        node, ask, _ = asked
        if header.source_node != node:
            self._system.count("foreign_answers")
            return
        try:
            message = self._codec.decode(envelope.body)
        except MalformedFrame as error:
            self._system.count("malformed")
            ask.fail(AskNotUnderstood(f"the answer cannot be read: {error}"))
            return
        if isinstance(message, Fault):
            ask.fail(ask_failure(message.kind, message.text))
        elif header.kind is Kind.FAULT:
            self._system.count("malformed")
            ask.fail(AskFailed("a fault without a reason"))
        else:
            ask.answer(message)

    def _take_message(self, envelope: Envelope, standing: Standing) -> None:
        header = envelope.header
        cell = self._system.cell(header.target_path)
        if cell is None:
            self._refuse(header, AskUnreachable(f"no actor {header.target_path} lives here"), "no_actor")
            return
        if standing not in cell.open_to:
            refusal = AskRefused(f"{header.target_path} is not open to a {standing.value}")
            self._refuse(header, refusal, "refused")
            return
        deadline: float | None = None
        if header.deadline_ms:
            left_s = header.deadline_ms / 1000
            if left_s <= 0:
                self._system.count("late")
                return
            deadline = self._system.clock() + min(left_s, DEADLINE_S_MAX)
        reply_to: RemoteReply | None = None
        if header.kind is Kind.ASK:
            if not self._is_new(header):
                return
            reply_to = RemoteReply(header, self._answerers[standing])
        try:
            message = self._decode(cell, envelope.body)
            cell.mailbox.put(Delivery(message, self._sender(header), reply_to, deadline, standing))
        except PeerError as error:
            self._refuse_anew(header, AskNotUnderstood(f"{header.target_path} cannot read the message: {error}"))
        except MailboxFull as error:
            self._refuse_anew(header, AskCongested(str(error)), "mailbox_full")

    def _sender(self, header: Header) -> ActorRef:
        key = (header.source_node, header.source_path)
        sender = self._senders.get(key)
        if sender is None:
            if len(self._senders) >= SENDERS_MAX:
                self._senders.clear()
            sender = self._senders[key] = ActorRef(Address(*key), self._system)
        return sender

    def _decode_all(self, cell: Cell, bodies: list[bytes]) -> list[Any]:
        messages = self._codec.decode_all(bodies)
        kinds = set(map(type, messages))
        if Fault in kinds or UserMessage in kinds:
            return [self._readable(cell, message) for message in messages]
        return messages

    def _decode(self, cell: Cell, body: bytes) -> Any:
        return self._readable(cell, self._codec.decode(body))

    def _readable(self, cell: Cell, message: Message) -> Any:
        if isinstance(message, Fault):
            raise MalformedFrame("a fault answers an ask; nobody tells one")
        if not isinstance(message, UserMessage):
            return message
        kind = cell.handlers.types.get(message.name) if cell.handlers is not None else None
        if kind is None:
            raise MalformedFrame(f"it has no handler for {message.name!r}")
        return decode_payload(message.payload, kind)

    def _is_new(self, header: Header) -> bool:
        if len(header.correlation) != CORRELATION_BYTES:
            self._refuse(header, AskNotUnderstood(f"a correlation id has {CORRELATION_BYTES} bytes"), "malformed")
            return False
        new, answer = self._answers.begin(header.source_node, header.correlation)
        if not new:
            self._system.count("repeated")
            if answer is not None:
                self._send_back(answer)
        return new

    def _answerer(self, standing: Standing) -> Callable[[Header, Any], None]:
        def send(asked: Header, answer: Any) -> None:
            if isinstance(answer, AskFailed) and standing is not Standing.MEMBER and answer.__cause__ is not None:
                # What a crash says may be nobody's business beyond the site.
                answer = type(answer)(f"{asked.target_path} crashed while it handled the message")
            envelope = self._answer(asked, answer)
            # Sent first: one that is too long for any way must not be kept, and sent again for a repeated question.
            self._send_back(envelope)
            self._answers.keep(asked.source_node, asked.correlation, envelope)

        return send

    def _answer(self, asked: Header, answer: Any) -> Envelope:
        kind = Kind.REPLY
        if isinstance(answer, AskFailed):
            kind = Kind.FAULT
            answer = Fault(answer.kind, str(answer)[:FAULT_CHARACTERS_MAX])
        source, source_path, correlation = asked.target_node, asked.target_path, asked.correlation
        node, path, traceparent = asked.source_node, asked.source_path, asked.traceparent
        header = Header(VERSION, kind, source, source_path, node, path, correlation, 0, traceparent)
        if len(correlation) != CORRELATION_BYTES:
            return Envelope(header, self._encode(answer))
        shared = self._answered
        if (
            shared.kind is not kind
            or shared.source_path != source_path
            or shared.target_node != node
            or shared.target_path != path
            or shared.traceparent != traceparent
            or shared.source_node != source
        ):
            shared = Header(VERSION, kind, source, source_path, node, path, b"", 0, traceparent)
            self._answered = shared
        return Envelope(header, self._encode(answer), shared)

    def _send_back(self, envelope: Envelope) -> None:
        try:
            self._send(envelope)
        except (Unreachable, Congested) as error:
            self._system.count("unreachable")
            self._system.bury(envelope.header.target_path, envelope.header.kind.name, str(error))

    def _refuse(self, header: Header, error: AskFailed, counter: str = "malformed") -> None:
        self._system.count(counter)
        if header.kind is Kind.ASK and len(header.correlation) <= CORRELATION_BYTES:
            self._send_back(self._answer(header, error))

    def _refuse_anew(self, header: Header, error: AskFailed, counter: str = "malformed") -> None:
        self._answers.forget(header.source_node, header.correlation)
        self._refuse(header, error, counter)


def _correlations() -> Iterator[bytes]:
    """Give random ids for ever; asking the kernel for each would cost as much as encoding the message."""
    while True:
        block = os.urandom(CORRELATION_BYTES * CORRELATIONS_AT_ONCE)
        for start in range(0, len(block), CORRELATION_BYTES):
            yield block[start : start + CORRELATION_BYTES]


class _Repeat:
    """A further attempt at an ask: rings at its time, and sends."""

    __slots__ = ("_ask", "_attempt", "_envelope")

    def __init__(self, attempt: Callable[[Envelope, Ask], None], envelope: Envelope, ask: Ask) -> None:
        self._attempt, self._envelope, self._ask = attempt, envelope, ask

    def ring(self) -> None:
        """Send once more."""
        self._attempt(self._envelope, self._ask)
