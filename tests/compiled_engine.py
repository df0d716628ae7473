"""The compiled JavaScript engine, made once for a run of the tests: compiling it takes most of a first start."""

import atexit
import functools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


@functools.cache
def engines():
    """Give a folder with the compiled engine, for `Containers(…, engines=…)`."""
    folder = Path(tempfile.mkdtemp(prefix="atoll-engine-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    code = (
        "import sys; from pathlib import Path; "
        "from atoll.actors.container_manager.runtimes.isolate import warm_up; warm_up(Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-P", "-c", code, str(folder)], check=True, timeout=60)
    return folder


def lend_engine(state_dir):
    """Put it where a node with this state directory keeps its own."""
    own = state_dir / "containers" / "engines"
    own.mkdir(mode=0o700, parents=True, exist_ok=True)
    for file in engines().iterdir():
        shutil.copy(file, own)
