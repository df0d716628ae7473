"""The systemd unit of a relay, hardened: a user of its own that owns nothing, and one capability for ports like 443."""

import math
import shutil
import sys
from pathlib import Path

from atoll.transport.errors import UsageError

CONFIG = Path("/etc/atoll/relay.toml")
DRAIN_S = 30.0
"""Where no config says otherwise."""
END_S = 30
"""What an end may take beside the drain."""
FILES_MAX = 65_536
"""9,000 tunnels need 20,000; the rest is room for whoever must be turned away."""
_HOMES = ("/home", "/root", "/run/user")

_UNIT = """\
# Made by `atoll relay unit`; put it into /etc/systemd/system/atoll-relay.service, then:
#   systemctl daemon-reload && systemctl enable --now atoll-relay
[Unit]
Description=Atoll relay
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={atoll} relay run --config ${{CREDENTIALS_DIRECTORY}}/relay.toml
# Read by systemd, so that it may hold a secret and belong to root.
LoadCredential=relay.toml:{config}
# For `websocket.port = 443`; then also set ATOLL_WEBSOCKET_CERTIFICATE and ATOLL_WEBSOCKET_KEY to these credentials.
#LoadCredential=certificate.pem:/etc/atoll/certificate.pem
#LoadCredential=certificate.key:/etc/atoll/certificate.key
Environment=ATOLL_STATE_DIR=/var/lib/atoll-relay ATOLL_RUN_DIR=/run/atoll-relay
Restart=on-failure
RestartSec=1
# SIGTERM drains it; it asks for the time that `drain_s` says, and this is for a relay that does not.
KillSignal=SIGTERM
KillMode=mixed
TimeoutStopSec={stop_s}
# A relay that stands still is started again.
WatchdogSec=30
LimitNOFILE={files}
TasksMax=1024

DynamicUser=yes
StateDirectory=atoll-relay
StateDirectoryMode=0700
RuntimeDirectory=atoll-relay
RuntimeDirectoryMode=0700
AmbientCapabilities=CAP_NET_BIND_SERVICE
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
ProtectProc=invisible
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
PrivateDevices=yes
PrivateTmp=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
RemoveIPC=yes
UMask=0077
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
# libzmq sets the scheduling of its threads, to what it is; real time stays forbidden.
SystemCallFilter=sched_setscheduler
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""


def relay_unit(config: Path, drain_s: float) -> str:
    """Write the unit for the `atoll` that runs this, and a relay's config file.

    Raises:
        UsageError: The config's path is none from the root, or has characters that a unit takes apart.
    """
    if not config.is_absolute() or any(each in str(config) for each in " :%$\"'\\\n"):
        raise UsageError(f"{config} cannot stand in a unit; name a full path without spaces, such as {CONFIG}")
    return _UNIT.format(atoll=program(), config=config, stop_s=math.ceil(drain_s) + END_S, files=FILES_MAX)


def program() -> Path:
    """Give the `atoll` that belongs to this interpreter, else the one on the path.

    Raises:
        UsageError: There is none.
    """
    beside = Path(sys.executable).with_name("atoll")
    found = beside if beside.exists() else shutil.which("atoll")
    if found is None:
        raise UsageError("no program `atoll` was found beside this Python, nor on the path; install the package")
    return Path(found).absolute()


def in_a_home(path: Path) -> bool:
    """Tell whether a service without a home could not reach it."""
    return any(str(each).startswith(f"{home}/") for each in (path, path.resolve()) for home in _HOMES)
