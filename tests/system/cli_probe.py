"""Commands given to a served gateway: node `tv`, and the gateways behind it."""

import json

import msgspec
from click.testing import CliRunner
from small_node import TV, SmallNode

from atoll.actors.gateway.authority import Kind, Principal
from atoll.actors.gateway.container_views import ServiceView
from atoll.actors.gateway.in_process import run_app
from atoll.actors.gateway.node_views import RouteTaken
from atoll.cli import main


class Node(SmallNode):
    """Node `tv`; behind it are the gateways of `phone`, a member, and of the other `tv`, which grants calls only."""

    def __init__(self, own=TV):
        super().__init__()
        self.own = own
        self.apps = {}
        """Gateways behind this one, by node id."""
        self.told = None
        self.elsewhere = []
        self.known[2] = msgspec.structs.replace(self.known[2], standing="granted")

    async def status(self):
        return self.told or await super().status()

    async def services(self):
        own = [msgspec.structs.replace(each, node=self.own) for each in await super().services()]
        return [*own, *self.elsewhere]

    async def call_node(self, node, request, timeout_s):
        if node in {"gone", "late", "full", "shut"}:
            return await super().call_node(node, request, timeout_s)
        view = await self.node(node)
        kind = Kind.MEMBER if view.standing == "member" else Kind.GRANTED
        self.timeouts_s.append(timeout_s)
        reply = await run_app(self.apps[view.id], request, Principal(kind=kind))
        return reply, RouteTaken(kind="sep", why="both behind NAT", elapsed_ms=12.34, node=view.id, name=view.name)


class Opened:
    """A served gateway and the commands that are given to it."""

    def __init__(self, node, phone, other, path, port):
        self.node, self.phone, self.other, self.path, self.port = node, phone, other, path, port

    def __call__(self, *arguments, at=None, env=None, stdin=None):
        command = ["--at", str(at or self.path), *map(str, arguments)]
        return CliRunner(env={"ATOLL_AT": None, "ATOLL_API_KEY": None, **(env or {})}).invoke(
            main, command, input=stdin, prog_name="atoll"
        )

    def json(self, *arguments):
        done = self(*arguments, "--json")
        assert (done.exit_code, done.stderr) == (0, ""), done.output
        found = json.loads(done.stdout)
        assert found["version"] == 1
        return found


def fine(done):
    assert done.exit_code == 0, done.output
    return done.stdout


def failed(done, what, remedy, *, code=1):
    assert done.exit_code == code, done.output
    first, second = done.stderr.splitlines()
    assert first.startswith("atoll: ")
    assert what in first
    assert remedy in second
    assert "Traceback" not in done.output


def serve(there, name, path, node=None):
    """Have a node list a service, of its own or of another node; what is called there is answered anyway."""
    there.elsewhere.append(ServiceView(name=name, path=path, node=node or there.own, node_name="x"))


def target_of(done):
    return json.loads(fine(done))["target"]


def alone(*arguments, **env):
    clean = {"ATOLL_AT": None, "ATOLL_API_KEY": None, "ATOLL_CONFIG": None}
    return CliRunner(env=clean | env).invoke(main, arguments, prog_name="atoll")
