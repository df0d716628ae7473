"""ssh -R: sshd in the middle as an ordinary process with fresh keys, and an ssh client as the agent."""

import getpass
import os
import shutil
import subprocess
from pathlib import Path

from atoll.bench.peers.peer import Peer, program
from atoll.bench.sockets import HOST, free_port

PRIVILEGE_SEPARATION = Path("/run/sshd")
"""Where sshd insists on an empty folder when it runs as root."""
CONFIGURATION = """\
Port {port}
ListenAddress {host}
HostKey {folder}/host
PidFile none
AuthorizedKeysFile {folder}/client.pub
AuthenticationMethods publickey
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
AllowTcpForwarding remote
"""


class OpenSsh(Peer):
    """What goes through is encrypted by ssh once more, between client and server."""

    name = "ssh -R"
    programs = ("sshd", "ssh", "ssh-keygen")
    install = "apt install openssh-server openssh-client"

    def __init__(self) -> None:
        super().__init__()
        self._made_folder = False

    def configure(self) -> None:
        for key in ("host", "client"):
            subprocess.run(  # noqa: S603 - keys for this run only
                [program("ssh-keygen") or "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / key)],
                check=True,
            )
        if os.geteuid() == 0 and not PRIVILEGE_SEPARATION.exists():
            PRIVILEGE_SEPARATION.mkdir(mode=0o755)
            self._made_folder = True
        port = free_port()
        (self.folder / "sshd_config").write_text(CONFIGURATION.format(port=port, host=HOST, folder=self.folder))
        self.run("sshd", "-D", "-e", "-f", str(self.folder / "sshd_config"))
        options = {
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "ExitOnForwardFailure": "yes",
            "ConnectionAttempts": "20",
            "LogLevel": "ERROR",
        }
        self.run(
            *("ssh", "-F", "none", "-N", "-p", str(port), "-i", str(self.folder / "client")),
            *(f"-o{name}={value}" for name, value in options.items()),
            *("-R", f"{HOST}:{self.port}:{HOST}:{self.target}", f"{getpass.getuser()}@{HOST}"),
            agent=True,
        )

    def close(self) -> None:
        super().close()
        if self._made_folder:
            shutil.rmtree(PRIVILEGE_SEPARATION, ignore_errors=True)
            self._made_folder = False
