import anyio

from atoll import Node


async def main() -> None:
    async with Node.open() as node, node.subscribe("sensors/+/temperature") as messages:
        await node.publish("sensors/kitchen/temperature", "21.5")
        async for message in messages:
            print(message.topic, message.payload.decode())
            break


if __name__ == "__main__":
    anyio.run(main)
