"""The actors that a node's config furnishes beside its network: containers, images, files, topics."""

from atoll.actors.blobs.blobs import Blobs
from atoll.actors.blobs.folder import BlobFolder
from atoll.actors.blobs.messages import SERVICE as BLOBS
from atoll.actors.container_manager.container_manager import ContainerManager
from atoll.actors.container_manager.containers import Containers, ContextFacts
from atoll.actors.container_manager.errors import StorageFault
from atoll.actors.image_exchange.blob_store import BlobStore
from atoll.actors.router.streams import open_stream
from atoll.actors.runtime import ActorSystem
from atoll.actors.topics.joins import JoinWanted
from atoll.actors.topics.lasting import Lasting
from atoll.actors.topics.messages import SERVICE as PUBSUB
from atoll.actors.topics.topics import Topics, TopicSettings
from atoll.cluster_specs.config import NodeConfig
from atoll.transport.base import Standing
from atoll.transport.errors import UsageError
from atoll.transport.identity import NodeId
from atoll.transport.keys import SiteKeys


def blob_store(config: NodeConfig) -> BlobStore:
    """Open what keeps images for other members.

    Raises:
        UsageError: Its folder cannot be used.
    """
    try:
        return BlobStore(config.state_dir / "cache")
    except StorageFault as error:
        raise UsageError(str(error)) from error


def container_manager(config: NodeConfig, node: NodeId) -> ContainerManager:
    """Make what runs services."""
    facts = ContextFacts(node_id=str(node), http_port=config.gateway.tcp_port or 0)
    return ContainerManager(lambda: Containers(config.state_dir / "containers", facts=facts))


def blobs(config: NodeConfig, system: ActorSystem) -> Blobs:
    """Make what sends and takes files."""
    wanted = config.blobs
    return Blobs(
        lambda: BlobFolder(config.state_dir / "blobs", quota_bytes=wanted.quota_mb * 2**20),
        lambda peer: open_stream(system, peer, BLOBS),
        accept=[Standing(each) for each in wanted.accept],
    )


def topics(config: NodeConfig, system: ActorSystem, site: SiteKeys, lasting: Lasting) -> Topics:
    """Make what publishes and subscribes."""
    settings = TopicSettings(
        may_subscribe=config.pubsub.subscribe,
        may_publish=config.pubsub.publish,
        joins=tuple(
            JoinWanted(each.node, each.topics, each.direction != "out", each.direction != "in") for each in config.join
        ),
    )
    return Topics(system.node_id, site.tag, settings, lambda peer: open_stream(system, peer, PUBSUB), lasting)
