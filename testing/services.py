"""Small services for demos and tests: a docker-save archive from JavaScript source, made in memory."""

import io
import json
import tarfile
from collections.abc import Mapping


def _tar(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def service_archive(name: str, version: str, source: str) -> bytes:
    """Pack JavaScript `source` as the image `name:version`, in the form that `docker save` writes."""
    manifest = [{"Config": "config.json", "RepoTags": [f"{name}:{version}"], "Layers": ["layer/layer.tar"]}]
    return _tar(
        {
            "manifest.json": json.dumps(manifest).encode(),
            "config.json": b"{}",
            "layer/VERSION": b"1.0",
            "layer/json": b"{}",
            "layer/layer.tar": _tar({"index.js": source.encode()}),
        }
    )
