"""What the cloud remembers, in one SQLite file: who is enrolled, which nodes and relays are alive, where they are.

Records live under leases: a reader never sees one whose lease is over. Only enrolments are for ever; everything else
is announced again by its owner, so losing the file costs one lease time and every enrolment: keep a copy of it.

What the disk refuses is `StoreFailed`, in words that say what to do; nothing is half written.
"""

import hashlib
import hmac
import logging
import sqlite3
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from atoll.actors.cloud.messages import NodeRecord, OfferedService, RelayReport, SepLabel
from atoll.actors.tunnel_relay.relay_address import WebDoor
from atoll.transport.errors import Refused, UsageError, WorldError
from atoll.transport.identity import NodeId

log = logging.getLogger("atoll.cloud")

SECRET_BYTES_MIN = 16
"""A shorter enrolment secret could be guessed."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS enrolment (
    secret_hash BLOB PRIMARY KEY, kind TEXT NOT NULL, site TEXT NOT NULL, name TEXT NOT NULL, node BLOB UNIQUE
) STRICT;
CREATE TABLE IF NOT EXISTS node (
    node BLOB PRIMARY KEY, site TEXT NOT NULL, name TEXT NOT NULL, version TEXT NOT NULL, services TEXT NOT NULL,
    actors TEXT NOT NULL, lease_until REAL NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS node_by_name ON node (site, name);
CREATE TABLE IF NOT EXISTS label (
    node BLOB NOT NULL, relay BLOB NOT NULL, label BLOB NOT NULL, lease_until REAL NOT NULL, PRIMARY KEY (node, relay)
) STRICT;
CREATE TABLE IF NOT EXISTS relay (
    node BLOB PRIMARY KEY, host TEXT NOT NULL, sep_port INTEGER NOT NULL, bearer_port INTEGER NOT NULL,
    load REAL NOT NULL, draining INTEGER NOT NULL, lease_until REAL NOT NULL, web BLOB NOT NULL DEFAULT x''
) STRICT;
"""
_WEB_COLUMN = "ALTER TABLE relay ADD COLUMN web BLOB NOT NULL DEFAULT x''"
"""What a file lacks that an earlier release has made."""


_REMEDIES = (
    (("full",), "its disk is full: make room"),
    (("readonly", "read-only", "unable to open"), "it may not be written: fix the rights of the file and its folder"),
    (
        ("malformed", "not a database", "corrupt"),
        (
            "it is damaged: stop the cloud, move the file away together with those that end in -wal and -shm, and put "
            "back a copy, or start without one and give every node and relay a new enrolment secret"
        ),
    ),
    (("locked", "busy"), "another program holds it: end that"),
)
_REMEDY = "look at its disk"


class StoreFailed(WorldError, Refused):
    """The cloud's file cannot be read or written now, which is nobody's fault; to whoever asked it is a refusal."""


class Enrolled(msgspec.Struct, frozen=True):
    """An enrolled key: what it is, and where it belongs."""

    node: NodeId
    kind: str
    """`node` or `relay`."""
    site: str
    name: str


class LiveRelay(msgspec.Struct, frozen=True):
    """A relay that reported within its lease."""

    node: NodeId
    host: str
    sep_port: int
    bearer_port: int
    load: float
    name: str = ""
    """What it was enrolled as."""
    web: WebDoor | None = None


def _remedy(error: sqlite3.Error) -> str:
    said = str(error).lower()
    return next((remedy for signs, remedy in _REMEDIES if any(sign in said for sign in signs)), _REMEDY)


def _hash(secret: bytes) -> bytes:
    return hashlib.sha256(b"atoll enrolment\x00" + secret).digest()


LEASE_S_MAX = 15.0
"""No lease is longer."""
AWAY_S = 6.0
"""Nobody is silent for so long: a relay speaks every 2 s, a site every 5 s."""
GRACE_S = 10.0
"""For links to be dialled anew, and a site's next announcement."""


class CloudStore:
    """The cloud's tables; `with CloudStore(path) as store`. All times are Unix seconds and come in."""

    def __init__(self, path: Path | None) -> None:
        """Open the file, or keep everything in memory without one.

        Raises:
            UsageError: The file cannot be used; the text says why and what to do.
        """
        self._path = path
        self._trouble = ""
        self._heard_at: float | None = None
        try:
            self._database = sqlite3.connect(path or ":memory:", isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            # An enrolment is answered for: it must be on disk when the answer goes out.
            self._database.execute("PRAGMA synchronous = FULL")
            # A damaged page would be met in the middle of an answer; now somebody is looking.
            (found,) = self._database.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise sqlite3.DatabaseError(f"database disk image is malformed: {found}")
            self._database.executescript(_SCHEMA)
            if "web" not in {row[1] for row in self._database.execute("PRAGMA table_info(relay)")}:
                self._database.execute(_WEB_COLUMN)
        except sqlite3.Error as error:
            raise UsageError(f"{path} cannot be used as the cloud's store ({error}): {_remedy(error)}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def _run(self, statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
        """Carry out one statement and give its rows.

        Raises:
            StoreFailed: The file cannot be read or written; nothing was changed.
        """
        try:
            rows = self._database.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            if self._trouble != str(error):
                self._trouble = str(error)
                log.error("the store %s fails (%s): %s", self._path, error, _remedy(error))  # noqa: TRY400 - said once
            raise StoreFailed(
                f"the cloud cannot use its store now ({error}); its operator is told what to do"
            ) from error
        if self._trouble and statement.startswith(("INSERT", "UPDATE", "DELETE", "COMMIT")):
            log.info("the store %s can be written again", self._path)
            self._trouble = ""
        return rows

    def expect(self, secret: bytes, *, kind: str, site: str, name: str) -> None:
        """Let whoever first shows `secret` enrol its key as `kind` ("node" or "relay") `name` of `site`.

        Saying it again changes nothing: the secret stays used if it was.
        """
        if len(secret) < SECRET_BYTES_MIN:
            raise UsageError(f"an enrolment secret needs at least {SECRET_BYTES_MIN} bytes; this one has {len(secret)}")
        self._run(
            "INSERT INTO enrolment VALUES (?, ?, ?, ?, NULL) ON CONFLICT DO NOTHING", (_hash(secret), kind, site, name)
        )

    def enrol(self, node: NodeId, secret: bytes) -> bool:
        """Spend `secret` on this key; True also when this very key spent it before."""
        digest = _hash(secret)
        rows = self._run("SELECT secret_hash, node FROM enrolment WHERE secret_hash = ?", (digest,))
        if not rows or not hmac.compare_digest(rows[0][0], digest):
            return False
        row = rows[0]
        if row[1] is not None:
            return bool(row[1] == bytes(node))
        if self.enrolled(node) is not None:
            return False
        self._run("UPDATE enrolment SET node = ? WHERE secret_hash = ?", (bytes(node), digest))
        return True

    def enrolled(self, node: NodeId) -> Enrolled | None:
        """Give what this key was enrolled as, or None."""
        rows = self._run("SELECT kind, site, name FROM enrolment WHERE node = ?", (bytes(node),))
        return Enrolled(node, *rows[0]) if rows else None

    def keep_nodes(self, records: tuple[NodeRecord, ...], labels: tuple[SepLabel, ...], lease_until: float) -> None:
        """Write a site's announcement, all of it or nothing."""
        self._run("BEGIN IMMEDIATE")
        try:
            for record in records:
                self._run(
                    "INSERT OR REPLACE INTO node VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (
                        bytes(record.node),
                        record.site,
                        record.name,
                        record.version,
                        msgspec.json.encode(record.services).decode(),
                        msgspec.json.encode(record.actors).decode(),
                        lease_until,
                    ),
                )
                self._run("DELETE FROM label WHERE node = ?", (bytes(record.node),))
            for label in labels:
                self._run(
                    "INSERT OR REPLACE INTO label VALUES (?, ?, ?, ?)",
                    (bytes(label.node), bytes(label.relay), label.label, lease_until),
                )
            self._run("COMMIT")
        except BaseException:
            # A full disk has rolled back by itself already.
            if self._database.in_transaction:
                self._run("ROLLBACK")
            raise

    def nodes(self, now: float, limit: int) -> tuple[NodeRecord, ...]:
        """Give the living records, by site and name."""
        rows = self._run(
            "SELECT node, name, site, version, services, actors FROM node WHERE lease_until > ?"
            " ORDER BY site, name LIMIT ?",
            (now, limit),
        )
        return tuple(_record(row) for row in rows)

    def node_by_id(self, node: NodeId, now: float) -> NodeRecord | None:
        """Give the living record of this id."""
        rows = self._run(
            "SELECT node, name, site, version, services, actors FROM node WHERE node = ? AND lease_until > ?",
            (bytes(node), now),
        )
        return _record(rows[0]) if rows else None

    def nodes_by_name(self, site: str, name: str, now: float) -> tuple[NodeRecord, ...]:
        """Give the living records of this name; an empty site means any."""
        rows = self._run(
            "SELECT node, name, site, version, services, actors FROM node"
            " WHERE name = ? AND (? = '' OR site = ?) AND lease_until > ? ORDER BY site LIMIT 8",
            (name, site, site, now),
        )
        return tuple(_record(row) for row in rows)

    def labels(self, node: NodeId, now: float) -> tuple[tuple[LiveRelay, bytes], ...]:
        """Give the living relays that hold a label of this node, least loaded first."""
        rows = self._run(
            "SELECT relay.node, host, sep_port, bearer_port, load, COALESCE(name, ''), web, label FROM label"
            " JOIN relay ON relay.node = label.relay LEFT JOIN enrolment ON enrolment.node = relay.node"
            " WHERE label.node = ? AND label.lease_until > ? AND relay.lease_until > ? ORDER BY load, relay.node",
            (bytes(node), now, now),
        )
        return tuple((_relay(row[:7]), row[7]) for row in rows)

    def keep_relay(self, relay: NodeId, report: RelayReport, lease_until: float) -> None:
        """Write a relay's report."""
        self._run(
            "INSERT OR REPLACE INTO relay VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                bytes(relay),
                report.host,
                report.sep_port,
                report.bearer_port,
                report.load,
                int(report.draining),
                lease_until,
                b"" if report.web is None else msgspec.msgpack.encode(report.web),
            ),
        )

    def relays(self, now: float) -> tuple[LiveRelay, ...]:
        """Give the living relays that take new work, least loaded first."""
        rows = self._run(
            "SELECT relay.node, host, sep_port, bearer_port, load, COALESCE(name, ''), web FROM relay"
            " LEFT JOIN enrolment ON enrolment.node = relay.node"
            " WHERE lease_until > ? AND draining = 0 ORDER BY load, relay.node",
            (now,),
        )
        return tuple(map(_relay, rows))

    def heard(self, now: float) -> None:
        """Note that somebody is heard; call it before any record is read or kept.

        Relays and sites speak every few seconds. When nobody was heard for `AWAY_S`, it was this process that was away
        (suspended, cut off, or not running), and who was alive before it left is given `GRACE_S` to speak up again:
        else everybody would be told that nobody is there, though it was the cloud that was not.
        """
        since, self._heard_at = self._heard_at, now
        if since is None:
            # An earlier life ended some time before the newest lease that it gave.
            (newest,) = self._run(
                "SELECT COALESCE(MAX(lease_until), 0) FROM (SELECT lease_until FROM node"
                " UNION ALL SELECT lease_until FROM label UNION ALL SELECT lease_until FROM relay)"
            )[0]
            since = newest - LEASE_S_MAX
        if now - since < AWAY_S:
            return
        until = now + GRACE_S
        for statement in (
            "UPDATE node SET lease_until = ? WHERE lease_until > ? AND lease_until < ?",
            "UPDATE label SET lease_until = ? WHERE lease_until > ? AND lease_until < ?",
            "UPDATE relay SET lease_until = ? WHERE lease_until > ? AND lease_until < ?",
        ):
            self._run(statement, (until, since, until))

    def sweep(self, now: float) -> int:
        """Remove what no reader can see any more; gives the number of rows, so that nothing grows unseen."""
        gone = 0
        for statement in (
            "DELETE FROM node WHERE lease_until <= ?",
            "DELETE FROM label WHERE lease_until <= ?",
            "DELETE FROM relay WHERE lease_until <= ?",
        ):
            gone += len(self._run(f"{statement} RETURNING 1", (now,)))
        return gone


def _relay(row: tuple[bytes, str, int, int, float, str, bytes]) -> LiveRelay:
    node, host, sep_port, bearer_port, load, name, web = row
    door = msgspec.msgpack.decode(web, type=WebDoor) if web else None
    return LiveRelay(NodeId(node), host, sep_port, bearer_port, load, name, door)


def _record(row: tuple[bytes, str, str, str, str, str]) -> NodeRecord:
    node, name, site, version, services, actors = row
    offered = msgspec.json.decode(services, type=tuple[OfferedService, ...])
    return NodeRecord(NodeId(node), name, site, version, offered, msgspec.json.decode(actors, type=tuple[str, ...]))
