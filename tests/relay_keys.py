"""Who is who at the relays of tests: the cloud that issues tickets, the relay they are for, and another one."""

from atoll.transport.keys import NodeKey

ISSUER, RELAY, STRANGER = (NodeKey(bytes([number]) * 32) for number in (1, 2, 3))
