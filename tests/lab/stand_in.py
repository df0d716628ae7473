"""Stands in for a process of a cluster: says it is ready, serves a tiny status, ends on SIGTERM. Run as a script.

stand_in.py KIND CONFIG [BEHAVIOUR]     behaviours: early-death, never-ready, stubborn, chatty
"""

import json
import os
import signal
import socket
import sys
import threading
import tomllib
from pathlib import Path


def tell(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])


class Api:
    """The few routes of a node that a rehearsal uses; by hand, for importing a server takes longer than all else."""

    def __init__(self, path, status_file):
        self.status_file = status_file
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.bind(str(path))
        self.sock.listen()

    def serve(self):
        while True:
            connection, _ = self.sock.accept()
            with connection, connection.makefile("rwb") as stream:
                method, path, _ = stream.readline().decode().split()
                length = 0
                while (line := stream.readline().decode().strip()) != "":
                    name, _, value = line.partition(":")
                    length = int(value) if name.lower() == "content-length" else length
                found = self.answer(method, path, stream.read(length))
                if found is None:
                    continue
                status, data, headers = found
                body = json.dumps(data).encode()
                head = [f"HTTP/1.1 {status} Told", f"content-length: {len(body)}", "connection: close", *headers]
                stream.write("\r\n".join([*head, "", ""]).encode() + body)

    def answer(self, method, path, body):
        if path == "/atoll/v1/status":
            return (200, json.loads(self.status_file.read_text()), []) if self.status_file.exists() else None
        if path == "/atoll/v1/containers":
            return 200, {"containers": [{"id": "api-echo-v1", "path": "/api/echo/v1"}]}, []
        if path.startswith("/at/"):
            return 200, {"path": path}, ["x-atoll-route: sep", "x-atoll-why: no link to it"]
        if (method, path) == ("POST", "/mcm/v1/images") and b"manifest.json" in body:
            return 200, {"id": "api-echo-v1"}, []
        if (method, path) == ("POST", "/mcm/v1/containers") and json.loads(body)["image"] == "echo-v1":
            return 200, {"id": "api-echo-v1"}, []
        return 404, {"detail": f"nothing at {path}", "remedy": "ask for something else"}, []


def main(kind, config_file, behaviour=""):
    config = tomllib.loads(Path(config_file).read_text())
    sys.stderr.write(f"{kind} {config['name']} begins\n")
    ending = threading.Event()
    if behaviour != "stubborn":
        signal.signal(signal.SIGTERM, lambda *_: ending.set())
        signal.signal(signal.SIGINT, lambda *_: ending.set())
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if kind == "node":
        api = Api(Path(config["run_dir"]) / "api.sock", Path(config["state_dir"]) / "status.json")
        threading.Thread(target=api.serve, daemon=True).start()
    if behaviour == "no-start":
        sys.stderr.write("the disk is on fire\n")
        sys.exit(3)
    if behaviour == "never-ready":
        tell("STATUS=waiting for Godot")
    else:
        tell("STATUS=all is well\nREADY=1")
    if behaviour == "chatty":
        sys.stderr.write("one line of many\n" * 20_000)
    if behaviour == "early-death":
        sys.stderr.write("the disk is on fire\n")
        sys.exit(3)
    ending.wait()
    with Path(config["state_dir"]).parent.parent.joinpath("ended").open("a") as order:
        order.write(f"{kind}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
