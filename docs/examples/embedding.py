import anyio
import msgspec

from atoll import Actor, Node, handles


class SetTarget(msgspec.Struct):
    celsius: float


class Boiler(Actor):
    @handles
    async def set_target(self, message: SetTarget) -> float:
        return message.celsius


async def main() -> None:
    async with Node.open() as node:  # or Node.open("gateway.toml")
        await node.spawn(Boiler, name="boiler")
        boiler = await node.find("boiler")  # here or on the site; scope="account" finds it anywhere
        print(await boiler.ask(SetTarget(21.0), timeout_s=2))


if __name__ == "__main__":
    anyio.run(main)
