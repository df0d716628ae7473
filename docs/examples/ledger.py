import anyio
import msgspec

from atoll import DurableActor, Node, handles


class Pay(msgspec.Struct):
    account: str
    cents: int


class Ledger(DurableActor):
    def __init__(self) -> None:
        self.balances: dict[str, int] = {}

    @handles
    async def pay(self, message: Pay) -> int:
        self.balances[message.account] = self.balances.get(message.account, 0) + message.cents
        return self.balances[message.account]

    def snapshot(self) -> dict[str, int]:
        return self.balances

    def restore(self, state: dict[str, int]) -> None:
        self.balances = state


async def main() -> None:
    async with Node.open() as node:
        ledger = node.host(Ledger, "ledger")  # the same on every node that may run it
        print("ann has", await ledger.ask(Pay("ann", 500)))


if __name__ == "__main__":
    anyio.run(main)
