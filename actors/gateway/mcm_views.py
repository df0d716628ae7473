"""What `/mcm/v1` says: images and containers in the words of the published edge-engine interface."""

from atoll.actors.gateway.container_views import ContainerView, ImageView
from atoll.actors.gateway.views import View


class McmImage(View, frozen=True, kw_only=True, rename="camel"):
    """An image in the words of the published edge-engine interface."""

    created: int
    digest: str
    id: str
    name: str
    repo_tags: list[str]
    size: int
    status: str = "ready"

    @classmethod
    def of(cls, image: ImageView) -> "McmImage":
        """Say an `ImageView` in those words."""
        return cls(
            created=image.created_ms,
            digest=image.digest,
            id=image.id,
            name=image.name,
            repo_tags=image.repo_tags,
            size=image.size_bytes,
        )


class McmContainer(View, frozen=True, kw_only=True, rename="camel"):
    """A container in the words of the published edge-engine interface."""

    client_id: str
    created: int
    env: dict[str, str]
    id: str
    image: str
    image_id: str
    name: str
    state: str
    status: str

    @classmethod
    def of(cls, container: ContainerView) -> "McmContainer":
        """Say a `ContainerView` in those words."""
        return cls(
            client_id=container.client,
            created=container.created_ms,
            env=container.env,
            id=container.id,
            image=container.image,
            image_id=container.image_id,
            name=container.name,
            state=container.state,
            status=container.status,
        )


class McmImages(View, frozen=True, kw_only=True):
    """`GET /mcm/v1/images`."""

    data: list[McmImage]


class McmContainers(View, frozen=True, kw_only=True):
    """`GET /mcm/v1/containers`."""

    data: list[McmContainer]


class NodeConfiguration(View, frozen=True, kw_only=True, rename="camel"):
    """`GET /.well-known/node-configuration`."""

    ssl_port: int = 8084
