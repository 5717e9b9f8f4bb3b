"""Open a node: build its parts and run its tasks (see README.md).

Two nurseries, one inside the other. Services outlast work: a node that leaves first ends its work
(probes, anti-entropy, reconnects), and still acknowledges pings and gossips until its block ends.
"""

import contextlib
import logging
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import trio

from trioserf import arguments as check
from trioserf.address import Address
from trioserf.errors import NameConflict
from trioserf.event_loop import require_trio
from trioserf.exception_groups import unwrap_single_exception
from trioserf.net.own_address import is_public, own_address
from trioserf.net.resolver import Resolver, SystemResolver
from trioserf.net.sockets import open_sockets
from trioserf.net.transport import ANY_HOST, Transport
from trioserf.node.antientropy import push_pull, repair
from trioserf.node.config import NodeConfig
from trioserf.node.event_hub import EventHub
from trioserf.node.gossip import gossip
from trioserf.node.join import Joiner
from trioserf.node.key_handler import KeyHandler, SaveKeyring, warn_if_plaintext
from trioserf.node.maintenance import check_queues, reap, reconnect
from trioserf.node.node import Node, Phase
from trioserf.node.probe import probe_members
from trioserf.node.refusals import check_suspects
from trioserf.node.seeds import rejoin_seeds
from trioserf.node.state import ClusterState
from trioserf.node.state_owner import StateOwner
from trioserf.node.streams import Streams
from trioserf.node.suspicion import expire_deadlines, expire_suspicions
from trioserf.serf.snapshot import LamportTimes

_log = logging.getLogger("trioserf.serf")


def open_node(
    config: NodeConfig | None = None,
    *,
    transport: Transport | None = None,
    resolver: Resolver | None = None,
    rng: random.Random | None = None,
    restore: LamportTimes | None = None,
    save_keyring: SaveKeyring | None = None,
    nonce: Callable[[int], bytes] = os.urandom,
) -> AbstractAsyncContextManager[Node]:
    """Run a node while the block lasts.

    The end of the block stops it like a crash; call `Node.leave` before to leave gracefully. Its
    tasks run in the event loop of the caller: code that blocks the loop for seconds gets the node
    declared failed (see node/README.md, § Rules for programs).

    Args:
        config: the configuration.
        transport: carries packets and streams; default: real sockets.
        resolver: looks up names and services; default: the system's resolver.
        rng: all randomness.
        restore: the latest times seen before a restart; older events are ignored.
        save_keyring: writes changed keys to their file; may raise an OSError, which is reported
            to the requester of the key query.
        nonce: returns that many bytes, which must never repeat under one key.

    Raises:
        AddressError: the address cannot be bound, or there is none to advertise.
        TooLarge: the encoded tags exceed their limit.
        NameConflict: another member keeps our name (see serf/README.md, § Name conflicts).
        RuntimeError: the caller is not a Trio task; the text names the ways from there.
        TypeError: an argument of a wrong type.
    """
    require_trio("open_node")
    config = NodeConfig() if config is None else check.instance("config", config, NodeConfig)
    rng = random.Random() if rng is None else check.instance("rng", rng, random.Random)
    resolver = SystemResolver() if resolver is None else resolver
    check.methods("resolver", resolver, "addresses", "services")
    if transport is not None:
        check.methods("transport", transport, "send_packet", "receive_packets", "dial", "accept")
    if restore is not None:
        check.instance("restore", restore, LamportTimes)
    if save_keyring is not None:
        check.function("save_keyring", save_keyring)
    check.function("nonce", nonce)
    return _open_node(config, transport, resolver, rng, restore, save_keyring, nonce)


@asynccontextmanager
async def _open_node(
    config: NodeConfig,
    transport: Transport | None,
    resolver: Resolver,
    rng: random.Random,
    restore: LamportTimes | None,
    save_keyring: SaveKeyring | None,
    nonce: Callable[[int], bytes],
) -> AsyncIterator[Node]:
    async with contextlib.AsyncExitStack() as stack:
        if transport is None:
            opening = open_sockets(config.bind.host, config.bind.port)
            transport = await stack.enter_async_context(opening)
        address = advertised_address(config, transport)
        _warn_if_public_plaintext(config, address)
        hub = EventHub()
        key_handler = KeyHandler(config.keyring, save_keyring)
        state = ClusterState(
            config,
            address,
            rng=rng,
            has_responder=hub.has_responder,
            keys=key_handler,
            nonce=nonce,
        )
        warn_if_plaintext(state.sealer)
        owner = StateOwner(state, transport, hub)
        state.start(trio.current_time(), restore)
        with unwrap_single_exception(NameConflict):
            async with _running(config, transport, owner, hub, key_handler, resolver, rng) as node:
                yield node


@asynccontextmanager
async def _running(
    config: NodeConfig,
    transport: Transport,
    owner: StateOwner,
    hub: EventHub,
    key_handler: KeyHandler,
    resolver: Resolver,
    rng: random.Random,
) -> AsyncIterator[Node]:
    streams = Streams(transport, config, owner)
    joiner = Joiner(owner, streams, resolver, transport.address[1], rng)
    async with trio.open_nursery() as services:
        services.start_soon(owner.run)
        services.start_soon(_receive, transport, owner)
        services.start_soon(streams.serve)
        services.start_soon(streams.send_messages)
        services.start_soon(gossip, owner)
        services.start_soon(expire_suspicions, owner)
        services.start_soon(expire_deadlines, owner)
        services.start_soon(key_handler.save_changes, owner)
        work = trio.CancelScope()
        bound = Address(*transport.address)
        node = Node(config, owner, hub, joiner, key_handler, work, bound)
        services.start_soon(partial(_work, work, owner, streams, joiner, rng))
        try:
            yield node
        finally:
            node.phase = Phase.SHUTDOWN
            work.cancel()
            services.cancel_scope.cancel()
            owner.fail_pending()
            hub.close()


async def _work(
    scope: trio.CancelScope,
    owner: StateOwner,
    streams: Streams,
    joiner: Joiner,
    rng: random.Random,
) -> None:
    """Run the tasks that end when the node leaves the cluster."""
    with scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(probe_members, owner, streams, rng)
            nursery.start_soon(check_suspects, owner, streams, rng)
            nursery.start_soon(push_pull, owner, joiner, rng)
            nursery.start_soon(repair, owner, joiner)
            nursery.start_soon(reconnect, owner, joiner, rng)
            nursery.start_soon(rejoin_seeds, owner, joiner.seeds, joiner.rejoin, rng)
            nursery.start_soon(reap, owner)
            nursery.start_soon(check_queues, owner)


async def _receive(transport: Transport, owner: StateOwner) -> None:
    transport.on_datagrams = owner.receive_now
    while True:
        await owner.receive(await transport.receive_packets())


def advertised_address(config: NodeConfig, transport: Transport) -> Address:
    """Return the address to advertise (see swim/README.md, § Own address).

    Raises:
        AddressError: bound to all interfaces, of which none has a private address.
    """
    bound = Address(*transport.address)
    if config.advertise is not None:
        return Address(config.advertise.host, config.advertise.port or bound.port)
    if bound.host not in ANY_HOST:
        return bound
    return Address(own_address(v6=":" in bound.host), bound.port)


def _warn_if_public_plaintext(config: NodeConfig, address: Address) -> None:
    if config.keyring is None and is_public(address.host):
        _log.warning("advertising the public address %s, and nothing is encrypted", address)
