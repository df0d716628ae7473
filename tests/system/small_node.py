"""A small real node for the gateway's tests: it keeps images and containers in memory, and its services echo."""

import hashlib
import json
import tarfile

import anyio

from atoll.actors.gateway.actor_views import ActorMovedReply, ActorRemovedReply, ActorReply, ActorsReply, ActorView
from atoll.actors.gateway.container_views import ContainerView, ImageView, LogLine, PullReply, ServiceView
from atoll.actors.gateway.forward_views import ForwardsReply, ForwardView
from atoll.actors.gateway.messages import HttpReply, HttpRequest
from atoll.actors.gateway.node_views import DrainReply, LinkView, MovedView, NodeView, RelayView, RouteTaken, StatusView
from atoll.actors.gateway.ports import AmbiguousName, Conflict, Unacceptable, UnknownImage, UnknownName
from atoll.actors.gateway.site_views import DutyView, RosterView, SiteMemberView, SiteRef, SiteView, SupernodeView
from atoll.actors.gateway.views import NodeRef
from atoll.transport.errors import Congested, Expired, Refused, Unreachable

TAKEN_PORT = 4444
EARLIER = 2
"""In which generation the ledger before the one of this name was founded, which was removed."""
TV, PHONE, OTHER_TV = "t" * 52, "p" * 52, "o" * 52


def node_view(node, name, site):
    return NodeView(
        id=node, short=node[:10], name=name, site=site, standing="member", self=node == TV, supernode=node == TV
    )


class SmallActors:
    """The actors of a small node's site: a ledger that goes where it is told to, and a tide that nobody runs."""

    def __init__(self, node):
        self._node = node
        self.why = ""
        self.host = TV
        self.moves = []
        """(name, where to, within_s) of every order to move one."""
        self.removed = []
        """(name, force, founded) of every order to remove one."""

    async def remove(self, name, *, force, founded):
        await self.show(name)
        if name == "tide" and not force:
            raise Conflict("whether tide is removed is not known after 10 s", "ask again, with `?force=true`")
        self.removed.append((name, force, founded))
        return ActorRemovedReply(name=name, founded_since=4 if founded == EARLIER else None)

    def _views(self):
        tv, phone = (NodeRef(id=each, short=each[:10], name=name) for each, name in ((TV, "tv"), (PHONE, "phone")))
        host = tv if self.host == TV else phone
        ledger = ActorView(
            name="books/ledger",
            class_name="Ledger",
            kind="durable",
            host=host,
            generation=7,
            founded=4,
            stores=[tv, phone],
            behind=[phone],
            state="running",
            why="",
            paused_ms=12.5,
        )
        tide = ActorView(
            name="tide",
            class_name="",
            kind="soft",
            host=phone,
            generation=1,
            stores=[],
            state="unhosted",
            why="it is placed on phone, which does not run it",
        )
        return [ledger, tide]

    async def list(self):
        return ActorsReply(actors=self._views(), why=self.why)

    async def show(self, name):
        found = [each for each in self._views() if each.name == name]
        if not found:
            raise UnknownName(f"no actor of this site that moves is called {name}", "list them with `atoll actor list`")
        return ActorReply(actor=found[0], why=self.why)

    async def move(self, name, to, within_s):
        await self.show(name)
        target = await self._node.node(to)
        if name == "tide":
            raise Conflict("tide stays where it is: the target declines: no Tide is known here", "host it there, too")
        self.moves.append((name, to, within_s))
        self.host = target.id
        host = NodeRef(id=target.id, short=target.short, name=target.name)
        return ActorMovedReply(name=name, host=host, paused_ms=3.25)


class SmallForwards:
    """The forwards of a small node: what was wanted stands, and nothing listens."""

    def __init__(self, node):
        self._node = node
        self.opened = {}
        """Number to what was wanted."""
        self.renewals_s = []

    def view(self, number, wanted):
        return ForwardView(
            id=str(number),
            host=wanted.host,
            listen_port=wanted.listen_port or 40000 + number,
            node=PHONE,
            name=wanted.node,
            port=wanted.port,
            route="bep",
            why="a bearer through relay-1 is open",
            connections=1,
            connections_total=3,
            failed=1,
            sent_bytes=2048,
            received_bytes=1_048_576,
            failure="port 5432 is not open to others there",
        )

    async def list(self):
        views = [self.view(number, wanted) for number, wanted in self.opened.items()]
        return ForwardsReply(forwards=views, allowed=[22, 5432], taken=2, refused=1)

    async def open(self, wanted):
        if wanted.listen_port == TAKEN_PORT:
            raise Conflict(f"cannot listen at {wanted.host} port {TAKEN_PORT}: Address already in use", "name another")
        await self._node.node(wanted.node)
        number = len(self.opened) + 1
        self.opened[number] = wanted
        return self.view(number, wanted)

    async def renew(self, number, for_s):
        self.renewals_s.append(for_s)
        return self._known(number)

    async def close(self, number):
        view = self._known(number)
        del self.opened[number]
        return view

    def _known(self, number):
        if number not in self.opened:
            raise UnknownName(f"there is no forward {number} any more")
        return self.view(number, self.opened[number])


class SmallNode:
    """Node `tv` of site `home`; it knows `phone` of the same site and a `tv` of another one."""

    def __init__(self):
        self.known = [
            node_view(TV, "tv", "home"),
            node_view(PHONE, "phone", "home"),
            node_view(OTHER_TV, "tv", "office"),
        ]
        self.kept_images = {}
        self.kept_containers = {}
        self.site_images = []
        """What can be pulled."""
        self.pulls = []
        self.looks_needed = 0
        """How often a pull is asked about before it has ended."""
        self.calls = []
        """(node or None, request, principal or None) of every call."""
        self.timeouts_s = []
        self.site_orders = []
        self.majority_lives = False
        self.roster_version = 4
        self.drains = []
        """(draining, within_s) of every order to drain."""
        self.stays = []
        self.forwards = SmallForwards(self)
        self.actors = SmallActors(self)
        self.canned = {}
        """Path → reply, where a service shall not echo."""
        self.gates = {}
        """Path → event to wait for."""

    async def status(self):
        return StatusView(
            software="0.1.0",
            node=NodeRef(id=TV, short=TV[:10], name="tv"),
            site=SiteRef(id="0011223344556677", mode="quorum", members=2),
            supernode=SupernodeView(node=TV, name="tv", epoch=3, confirmed=True, why="mains power"),
            duties=[DutyView(duty="proxy", node=TV, name="tv", why="supernode", generation=1)],
            links=[LinkView(peer=PHONE, name="phone", standing="member", host="127.0.0.1", since_s=1.5)],
            counters={"links.up": 7},
        )

    async def nodes(self, scope):
        return self.known if scope == "link-local" else []

    async def node(self, name):
        found = [
            each
            for each in self.known
            if name in (each.id, each.name, f"{each.site}/{each.name}")
            or (len(name) >= 10 and each.id.startswith(name))
        ]
        if not found:
            raise UnknownName(f"no node is called {name}")
        if len(found) > 1:
            raise AmbiguousName(f"{len(found)} nodes are called {name}", [f"{each.site}/{each.name}" for each in found])
        return found[0]

    async def services(self):
        return [
            ServiceView(name=each.name, path=each.path, node=TV, node_name="tv", container=each.id)
            for each in self.kept_containers.values()
        ]

    async def containers(self):
        return list(self.kept_containers.values())

    async def images(self):
        return list(self.kept_images.values())

    async def site(self):
        voter = {"id": TV, "short": TV[:10], "name": "tv"}
        return SiteView(
            id="00",
            name="home",
            mode="provisional",
            why="1 of 3 voters in reach, 2 needed: no majority",
            roster=RosterView(version=self.roster_version, voters=[NodeRef(**voter)], reason="without box: it leaves"),
            voters_in_reach=1,
            members=[SiteMemberView(**voter, voter=True, supernode=False, self=True, route="here")],
        )

    async def leave_site(self, reason):
        self.site_orders.append(("leave", reason))
        return await self.site()

    async def reform_site(self, reason, *, force):
        if self.majority_lives and not force:
            raise Conflict("phone is supernode with a majority of the voters", "if you are sure, say so in the body")
        self.site_orders.append(("reform", reason, force))
        self.roster_version = 1
        return await self.site()

    async def drain(self, *, draining, within_s):
        self.drains.append((draining, within_s))
        if not draining:
            return DrainReply(draining=False, moved=[], stayed=[])
        moved = [MovedView(what="proxy", node=PHONE, name="phone", took_ms=80.5, pause_ms=0.0)]
        return DrainReply(draining=True, moved=moved, stayed=self.stays)

    async def relays(self):
        return [RelayView(name="relay-1", address="127.0.0.1:8088", state="up")]

    async def load_image(self, client, tar):
        data = await anyio.Path(tar).read_bytes()
        try:
            with tarfile.open(tar) as archive:
                manifest = json.load(archive.extractfile("manifest.json"))
        except (tarfile.TarError, KeyError) as error:
            raise Unacceptable(f"not a docker-save tar: {error}") from error
        tag = manifest[0]["RepoTags"][0]
        name = tag.partition(":")[0]
        view = ImageView(
            id=f"{client}-{name}",
            name=name,
            client=client,
            digest="sha256:" + hashlib.sha256(data).hexdigest(),
            repo_tags=[tag, "runtime:js"],
            size_bytes=len(data),
            created_ms=1_700_000_000_000,
        )
        self.kept_images[view.id] = view
        return view

    async def pull_image(self, client, image, source, wait_s):
        found = next((each for each in self.site_images if each.repo_tags[0] == image), None)
        if found is None:
            raise UnknownImage(f"cannot find image with name {image}")
        self.pulls.append((client, image, source, wait_s))
        here = len(self.pulls) > self.looks_needed
        if here:
            self.kept_images[found.id] = found
        return PullReply(
            name=found.name,
            got_bytes=found.size_bytes if here else found.size_bytes // 2 if source or len(self.pulls) > 2 else 0,
            cache_bytes=0 if source else 100 * len(self.pulls),
            size_bytes=found.size_bytes,
            source=PHONE,
            source_name="phone",
            cached=not source,
            image=found if here else None,
        )

    async def remove_image(self, image):
        return self.kept_images.pop(self._found(self.kept_images, image))

    def _found(self, kept, name):
        for each in kept.values():
            if name in (each.id, each.name):
                return each.id
        raise (UnknownImage if kept is self.kept_images else UnknownName)(f"nothing is called {name}")

    async def run_container(self, client, name, image, env):
        of = self.kept_images[self._found(self.kept_images, image)]
        view = ContainerView(
            id=f"{client}-{name}",
            name=name,
            client=client,
            image=image,
            image_id=of.id,
            state="started",
            status="up",
            created_ms=1_700_000_000_001,
            env=dict(env),
            path=env.get("MCM.BASE_API_PATH", "/" + name),
        )
        if view.id in self.kept_containers:
            raise Conflict(f"a container is called {view.id}")
        self.kept_containers[view.id] = view
        return view

    def _set(self, container, state, status):
        view = self.kept_containers[self._found(self.kept_containers, container)]
        fields = {name: getattr(view, name) for name in view.__struct_fields__}
        self.kept_containers[view.id] = ContainerView(**fields | {"state": state, "status": status})
        return self.kept_containers[view.id]

    async def start_container(self, container):
        return self._set(container, "started", "up")

    async def stop_container(self, container):
        return self._set(container, "stopped", "down")

    async def remove_container(self, container):
        return self.kept_containers.pop(self._found(self.kept_containers, container))

    async def logs(self, container, lines_max):
        self._found(self.kept_containers, container)
        return [LogLine(at_ms=number, stream="stdout", text=f"line {number}") for number in range(200)][-lines_max:]

    async def call_local(self, request, principal):
        self.calls.append((None, request, principal))
        return await self._answer(request)

    async def call_node(self, node, request, timeout_s):
        failing = {"gone": Unreachable, "late": Expired, "full": Congested, "shut": Refused}
        if node in failing:
            raise failing[node](f"{node}: no")
        view = await self.node(node)
        self.calls.append((view.id, request, None))
        self.timeouts_s.append(timeout_s)
        taken = RouteTaken(
            kind="sep", why="both behind NAT; relay-1 is nearer → 3 ms", elapsed_ms=12.34, node=view.id, name=view.name
        )
        return await self._answer(request), taken

    async def _answer(self, request: HttpRequest) -> HttpReply:
        path = request.target.partition("?")[0]
        if path in self.gates:
            await self.gates[path].wait()
        if path in self.canned:
            return self.canned[path]
        if path == "/nowhere":
            raise UnknownName("no service lives at /nowhere")
        if path == "/breaks":
            raise RuntimeError("secret detail")
        said = json.dumps({"method": request.method, "target": request.target, "headers": request.headers})
        kind = "application/json" if request.body[:1] in {b"", b"{"} else "application/octet-stream"
        fields = (("content-type", kind), ("x-said-twice", "1"), ("x-said-twice", "2"))
        return HttpReply(200, fields, request.body or said.encode())
