"""Print the address of a file, as `atoll send` does, with nothing but the standard library."""

import hashlib
import sys
from pathlib import Path

CHUNKS_MAX = 65_536


def address_of(path: Path) -> str:
    size = path.stat().st_size
    chunk = 256 * 1024
    while chunk * CHUNKS_MAX < size:
        chunk *= 2
    last = max(1, -(-size // chunk)) - 1
    shape = {"digest_size": 32, "fanout": 0, "depth": 2, "leaf_size": chunk, "inner_size": 32}
    root = hashlib.blake2b(node_depth=1, last_node=True, **shape)
    with path.open("rb") as file:
        for index in range(last + 1):
            leaf = hashlib.blake2b(file.read(chunk), node_offset=index, last_node=index == last, **shape)
            root.update(leaf.digest())
    return f"blake2b-tree:{root.hexdigest()}"


if __name__ == "__main__":
    print(address_of(Path(sys.argv[1])))
