"""OpenAPI 3.1, generated from the views; `OPERATIONS` says which view belongs to which route.

A test compares it with the application's routes, so that neither can be forgotten.
"""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from atoll.actors.container_manager.messages import CLIENT_DEFAULT
from atoll.actors.gateway import (
    actor_views,
    blob_views,
    container_views,
    forward_views,
    mcm_views,
    node_views,
    site_views,
    topic_views,
)
from atoll.actors.gateway.authority import ANY, SCOPES, Scope
from atoll.actors.gateway.node_routes import NODE_SCOPES, TAIL_LINES, TAIL_LINES_MAX
from atoll.actors.gateway.problems import MEDIA_TYPE, ProblemView

REF = "#/components/schemas/{name}"
INTERFACE_VERSION = "1"
ANY_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

_SCOPE_PARAMETER = {"name": "scope", "in": "query", "schema": {"enum": list(NODE_SCOPES), "default": NODE_SCOPES[0]}}
_TAIL_PARAMETER = {
    "name": "tail",
    "in": "query",
    "schema": {"type": "integer", "minimum": 1, "maximum": TAIL_LINES_MAX, "default": TAIL_LINES},
}
_CLIENT_PARAMETER = {
    "name": "x-client-id",
    "in": "header",
    "schema": {"type": "string", "default": CLIENT_DEFAULT},
}
_FROM_PARAMETER = {"name": "from", "in": "query", "schema": {"type": "string"}}
_TO_PARAMETER = {"name": "to", "in": "query", "schema": {"type": "string"}}
_FILTER_PARAMETER = {
    "name": "filter",
    "in": "query",
    "required": True,
    "schema": {"type": "array", "items": {"type": "string"}},
}
_FOUNDED = {"name": "founded", "in": "query", "schema": {"type": "integer", "minimum": 0, "default": 0}}
_FORCE = {"name": "force", "in": "query", "schema": {"type": "boolean", "default": False}}
_TAR = {"type": "string", "format": "binary"}
_IMAGE_CONTENT = {
    "multipart/form-data": {"schema": {"type": "object", "properties": {"image": _TAR}, "required": ["image"]}},
    "application/x-tar": {"schema": _TAR},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What a route takes and gives."""

    summary: str
    reply: type[msgspec.Struct] | None = None
    status: int = 200
    takes: type[msgspec.Struct] | None = None
    image: bool = False
    parameters: list[dict[str, Any]] = field(default_factory=list)
    errors: tuple[int, ...] = ()
    takes_bytes: bool = False
    streams: object = None
    """What each line of a reply is that does not end."""
    as_path: str = ""
    """The path for people, where the route's is not one."""


OPERATIONS: dict[tuple[str, str], Operation] = {
    ("GET", "/.well-known/node-configuration"): Operation(summary="Where TLS is", reply=mcm_views.NodeConfiguration),
    ("GET", "/openapi.json"): Operation(summary="This document"),
    ("GET", "/metrics"): Operation(summary="Counters, in Prometheus' text form"),
    ("GET", "/atoll/v1/status"): Operation(summary="Health and place of this node", reply=node_views.StatusView),
    ("GET", "/atoll/v1/nodes"): Operation(
        summary="Nodes it sees", reply=node_views.NodesReply, parameters=[_SCOPE_PARAMETER], errors=(400,)
    ),
    ("GET", "/atoll/v1/nodes/{node:path}"): Operation(
        summary="One node, by id, short id or name", reply=node_views.NodeReply, errors=(404, 409)
    ),
    ("GET", "/atoll/v1/services"): Operation(
        summary="Services that can be called", reply=container_views.ServicesReply
    ),
    ("GET", "/atoll/v1/links"): Operation(summary="Links to neighbours", reply=node_views.LinksReply),
    ("GET", "/atoll/v1/relays"): Operation(summary="Relays it knows", reply=node_views.RelaysReply),
    ("GET", "/atoll/v1/duties"): Operation(summary="Duties of the site", reply=site_views.DutiesReply),
    ("GET", "/atoll/v1/site"): Operation(summary="Members and voters of the site", reply=site_views.SiteView),
    ("POST", "/atoll/v1/site/leave"): Operation(
        summary="Take this node out of the voters", takes=site_views.LeaveSite, reply=site_views.SiteView, errors=(400,)
    ),
    ("POST", "/atoll/v1/site/reform"): Operation(
        summary="Begin the site anew, with this node as its only voter",
        takes=site_views.ReformSite,
        reply=site_views.SiteView,
        errors=(400, 409),
    ),
    ("POST", "/atoll/v1/drain"): Operation(
        summary="Give duties and the supernode's place to others",
        reply=node_views.DrainReply,
        takes=node_views.DrainNode,
        errors=(400,),
    ),
    ("GET", "/atoll/v1/actors"): Operation(summary="Actors of the site that move", reply=actor_views.ActorsReply),
    ("GET", "/atoll/v1/actors/{actor:path}"): Operation(
        summary="One of them, by its name", reply=actor_views.ActorReply, errors=(404,)
    ),
    ("POST", "/atoll/v1/actors/{actor:path}/move"): Operation(
        summary="Move one to another member of the site",
        takes=actor_views.MoveActorBody,
        reply=actor_views.ActorMovedReply,
        errors=(400, 404, 409),
    ),
    ("DELETE", "/atoll/v1/actors/{actor:path}"): Operation(
        summary="End one for good",
        reply=actor_views.ActorRemovedReply,
        parameters=[_FORCE, _FOUNDED],
        errors=(400, 404, 409),
    ),
    ("GET", "/atoll/v1/forwards"): Operation(
        summary="Ports of other nodes that this host listens at", reply=forward_views.ForwardsReply
    ),
    ("POST", "/atoll/v1/forwards"): Operation(
        summary="Listen at a port, and carry its connections to a node",
        takes=forward_views.OpenForwardBody,
        reply=forward_views.ForwardReply,
        status=201,
        errors=(400, 404, 409),
    ),
    ("POST", "/atoll/v1/forwards/{forward}/renew"): Operation(
        summary="Let a forward live on",
        takes=forward_views.RenewForwardBody,
        reply=forward_views.ForwardReply,
        errors=(400, 404),
    ),
    ("DELETE", "/atoll/v1/forwards/{forward}"): Operation(
        summary="End a forward and its connections", reply=forward_views.ForwardReply, errors=(400, 404)
    ),
    ("GET", "/atoll/v1/images"): Operation(summary="Images on this node", reply=container_views.ImagesReply),
    ("POST", "/atoll/v1/images"): Operation(
        summary="Load an image",
        reply=container_views.ImageReply,
        status=201,
        image=True,
        parameters=[_CLIENT_PARAMETER],
        errors=(400, 409, 413, 507),
    ),
    ("POST", "/atoll/v1/images/pull"): Operation(
        summary="Pull an image from the site",
        reply=container_views.PullReply,
        takes=container_views.PullImage,
        parameters=[_CLIENT_PARAMETER],
        errors=(400, 404, 409, 413, 502),
    ),
    ("DELETE", "/atoll/v1/images/{image}"): Operation(
        summary="Remove an image", reply=container_views.ImageReply, errors=(404, 409)
    ),
    ("GET", "/atoll/v1/containers"): Operation(
        summary="Containers on this node", reply=container_views.ContainersReply
    ),
    ("POST", "/atoll/v1/containers"): Operation(
        summary="Run a container",
        reply=container_views.ContainerReply,
        status=201,
        takes=container_views.RunContainer,
        parameters=[_CLIENT_PARAMETER],
        errors=(400, 404, 409, 413, 502, 504),
    ),
    ("DELETE", "/atoll/v1/containers/{container}"): Operation(
        summary="Remove a container", reply=container_views.ContainerReply, errors=(404, 409)
    ),
    ("POST", "/atoll/v1/containers/{container}/start"): Operation(
        summary="Start a container", reply=container_views.ContainerReply, errors=(404, 409)
    ),
    ("POST", "/atoll/v1/containers/{container}/stop"): Operation(
        summary="Stop a container", reply=container_views.ContainerReply, errors=(404, 409)
    ),
    ("GET", "/atoll/v1/containers/{container}/logs"): Operation(
        summary="What a container wrote",
        reply=container_views.LogsReply,
        parameters=[_TAIL_PARAMETER],
        errors=(400, 404, 409),
    ),
    ("GET", "/atoll/v1/blobs"): Operation(summary="Blobs that come, lie here, and go", reply=blob_views.BlobsReply),
    ("POST", "/atoll/v1/blobs/send"): Operation(
        summary="Send a file of this host to a node, by its path; at the unix socket alone",
        takes=blob_views.SendFile,
        reply=blob_views.SendingReply,
        errors=(404, 409, 413, 502),
    ),
    ("POST", "/atoll/v1/blobs/receive"): Operation(
        summary="Wait for offers of blobs, and accept them",
        takes=blob_views.ReceiveBlobs,
        reply=blob_views.BlobsReply,
        errors=(404, 409, 413, 502),
    ),
    ("DELETE", "/atoll/v1/blobs/receivers/{receiver}"): Operation(
        summary="Accept nothing more for a receiver that has ended", status=204
    ),
    ("DELETE", "/atoll/v1/blobs/outgoing/{order}"): Operation(
        summary="Call back what is being sent", reply=blob_views.SendingReply, errors=(404,)
    ),
    ("POST", "/atoll/v1/blobs/{digest}/decide"): Operation(
        summary="Accept or refuse an offer",
        takes=blob_views.DecideBlob,
        reply=blob_views.BlobReply,
        errors=(404, 409, 413),
    ),
    ("GET", "/atoll/v1/blobs/{digest}"): Operation(
        summary="The bytes of a blob that is whole", parameters=[_FROM_PARAMETER], errors=(404, 409)
    ),
    ("DELETE", "/atoll/v1/blobs/{digest}"): Operation(
        summary="Let go of a blob", reply=blob_views.BlobReply, parameters=[_FROM_PARAMETER], errors=(404, 409)
    ),
    ("GET", "/atoll/v1/topics"): Operation(
        summary="What is published to topics that match, a line of JSON an event, until the client leaves",
        streams=topic_views.TopicEvent,
        parameters=[_FILTER_PARAMETER, _FROM_PARAMETER],
        errors=(403, 404, 409, 502),
    ),
    ("POST", "/atoll/v1/topics/{topic:path}"): Operation(
        summary="Publish the body to a topic, in this site or in that of another node",
        reply=topic_views.PublishedReply,
        takes_bytes=True,
        parameters=[_TO_PARAMETER],
        errors=(403, 404, 409, 413, 502, 503),
    ),
    ("GET", "/atoll/v1/pubsub"): Operation(
        summary="Who reads topics here, and how this site is joined with others", reply=topic_views.PubSubReply
    ),
    ("GET", "/mcm/v1/images"): Operation(summary="Images (published interface)", reply=mcm_views.McmImages),
    ("POST", "/mcm/v1/images"): Operation(
        summary="Load an image (published interface)",
        reply=mcm_views.McmImage,
        image=True,
        parameters=[_CLIENT_PARAMETER],
        errors=(400, 409, 413, 507),
    ),
    ("DELETE", "/mcm/v1/images/{image}"): Operation(
        summary="Remove an image (published interface)", reply=mcm_views.McmImage, errors=(404, 409)
    ),
    ("GET", "/mcm/v1/containers"): Operation(summary="Containers (published interface)", reply=mcm_views.McmContainers),
    ("POST", "/mcm/v1/containers"): Operation(
        summary="Run a container (published interface)",
        reply=mcm_views.McmContainer,
        takes=container_views.RunContainer,
        parameters=[_CLIENT_PARAMETER],
        errors=(400, 404, 409, 413, 502, 504),
    ),
    ("DELETE", "/mcm/v1/containers/{container}"): Operation(
        summary="Remove a container (published interface)", reply=mcm_views.McmContainer, errors=(404, 409)
    ),
    ("PUT", "/mcm/v1/containers/{container}/start"): Operation(
        summary="Start a container (published interface)", reply=mcm_views.McmContainer, errors=(404, 409)
    ),
    ("PUT", "/mcm/v1/containers/{container}/stop"): Operation(
        summary="Stop a container (published interface)", reply=mcm_views.McmContainer, errors=(404, 409)
    ),
    (ANY, "/at/{rest:path}"): Operation(
        summary="Call a service on another node, by any path; every method",
        as_path="/at/{node}/{path}",
        errors=(404, 409, 413, 431, 502, 503, 504),
    ),
    (ANY, "/{rest:path}"): Operation(
        summary="Call a service on this node; every method", as_path="/{service}", errors=(404, 413, 431, 502, 503)
    ),
}


def openapi_document() -> bytes:
    """Generate the document."""
    kinds: list[Any] = [
        each
        for operation in OPERATIONS.values()
        for each in (operation.reply, operation.takes, operation.streams)
        if each
    ]
    kinds = list(dict.fromkeys([*kinds, ProblemView]))
    references, schemas = msgspec.json.schema_components(kinds, ref_template=REF)
    reference_of = dict(zip(kinds, references, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for (method, path), operation in OPERATIONS.items():
        shown = operation.as_path or path.replace(":path", "")
        for each in ANY_METHODS if method == ANY else (method,):
            paths.setdefault(shown, {})[each.lower()] = _operation(each, shown, operation, reference_of, (method, path))
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Atoll gateway",
                "version": INTERFACE_VERSION,
                "description": "The REST interface of one node. Errors are `application/problem+json`.",
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": "/"}],
            "paths": paths,
            "components": {
                "schemas": schemas,
                "securitySchemes": {
                    "bearer": {"type": "http", "scheme": "bearer"},
                    "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                },
            },
            "security": [{"bearer": []}, {"key": []}],
        }
    )


def _operation(
    method: str, path: str, operation: Operation, reference_of: dict[Any, Any], key: tuple[str, str]
) -> dict[str, Any]:
    named = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    in_path = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in named]
    is_open = SCOPES[key] is Scope.OPEN
    problem = {"description": "A problem", "content": {MEDIA_TYPE: {"schema": reference_of[ProblemView]}}}
    answer: dict[str, Any] = {"description": "Done"}
    if operation.reply:
        answer["content"] = {"application/json": {"schema": reference_of[operation.reply]}}
    if operation.streams:
        answer["content"] = {"application/x-ndjson": {"schema": reference_of[operation.streams]}}
    errors = {400, 403, 500, *operation.errors} if is_open else {400, 401, 403, 500, *operation.errors}
    said: dict[str, Any] = {
        "operationId": method.lower() + "".join(part.strip("{}.").title() for part in path.replace("-", "").split("/")),
        "summary": operation.summary,
        "parameters": [*in_path, *operation.parameters],
        "responses": {str(operation.status): answer, **{str(status): problem for status in sorted(errors)}},
    }
    if operation.as_path:
        said["responses"]["default"] = {"description": "Whatever the service answers"}
    if is_open:
        said["security"] = []
    else:
        said["description"] = f"Needs the scope `{SCOPES[key].value}`."
    if operation.takes:
        said["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": reference_of[operation.takes]}},
        }
    if operation.takes_bytes:
        said["requestBody"] = {"content": {"application/octet-stream": {"schema": _TAR}}}
    if operation.image:
        said["requestBody"] = {"required": True, "content": _IMAGE_CONTENT}
    return said
