"""Makes images of JavaScript services out of their source, as `docker save` would, without Docker."""

import hashlib
import io
import json
import tarfile

ECHO = """\
// Answers with what it was asked, and counts its calls in its storage.
mimikModule.exports = function (context, request, response) {
  const calls = Number(context.storage.getItem('calls') || 0) + 1;
  context.storage.setItem('calls', String(calls));
  console.log(request.method + ' ' + request.url);
  response.setHeader('content-type', 'application/json');
  response.end(JSON.stringify({
    service: context.info.serviceType,
    node: context.info.nodeId,
    method: request.method,
    path: request.url,
    body: request.body,
    calls,
  }));
};
"""
"""The service of the demo."""


def _tar(files: dict[str, bytes]) -> bytes:
    """Write files under fixed times and owners, so that the same source gives the same digest."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            if name.endswith("/"):
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            else:
                entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return held.getvalue()


def service_archive(name: str, version: str, source: str) -> bytes:
    """Make a docker-save archive of a service; the same arguments give the same bytes."""
    layer = _tar({"./": b"", "./index.js": source.encode()})
    layer_digest = hashlib.sha256(layer).hexdigest()
    config = json.dumps(
        {
            "architecture": "any",
            "os": "any",
            "config": {"Labels": {"runtime": "js"}},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
        }
    ).encode()
    config_digest = hashlib.sha256(config).hexdigest()
    manifest = [
        {
            "Config": f"{config_digest}.json",
            "RepoTags": [f"{name}:{version}"],
            "Layers": [f"{layer_digest}/layer.tar"],
        }
    ]
    return _tar(
        {
            f"{layer_digest}/": b"",
            f"{layer_digest}/VERSION": b"1.0",
            f"{layer_digest}/json": json.dumps({"id": layer_digest}).encode(),
            f"{layer_digest}/layer.tar": layer,
            f"{config_digest}.json": config,
            "manifest.json": json.dumps(manifest).encode(),
            "repositories": json.dumps({name: {version: layer_digest}}).encode(),
        }
    )
