"""The agent: a node with what makes it a service – handlers, files, joins that do not give up."""

import logging
import os
import platform
import random
import socket
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import trio

from trioserf.agent import tags_file
from trioserf.agent.config import AgentConfig
from trioserf.agent.files import DiskFiles, Files
from trioserf.agent.handlers import Handler, Handlers
from trioserf.agent.keyring_file import KeyringFile
from trioserf.agent.logs import Logs
from trioserf.agent.metrics import Metrics, Sink
from trioserf.agent.node_config import node_config, start_keyring
from trioserf.agent.optional_dependencies import require_extra
from trioserf.agent.snapshot import SnapshotWriter, load_snapshot, previous_members
from trioserf.agent.statsd import MetricsSender, split_address
from trioserf.errors import ConfigError, JoinFailed
from trioserf.net.resolver import SystemResolver
from trioserf.node import Node, open_node
from trioserf.serf.snapshot import EMPTY, SnapshotContents

_log = logging.getLogger("trioserf.agent")
_serf_log = logging.getLogger("trioserf.serf")

_SNAPSHOT_BUFFER: Final = 8192
"""Events between two writes of the snapshot; after more, it is taken from the members."""
_REJOINED_AT_ONCE: Final = 10
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm"}
"""Machines whose names Go spells otherwise."""


class Agent:
    """The process around a node, as clients see it; made by `open_agent`.

    Attributes:
        node: the node.
        logs: the log.
        shutdown: set to make the agent end.
        failure: why it ends, if that is an error.
        metrics: what is counted.
    """

    def __init__(
        self,
        config: AgentConfig,
        node: Node,
        logs: Logs,
        handlers: Handlers,
        snapshot: SnapshotWriter | None,
        metrics: Metrics,
        keyring_file: KeyringFile,
    ) -> None:
        self.config = config
        self.node = node
        self.logs = logs
        self.shutdown = trio.Event()
        self.failure = ""
        self.metrics = metrics
        self._handlers = handlers
        self._snapshot = snapshot
        self._keyring_file = keyring_file

    def info(self) -> dict[str, dict[str, object]]:
        """Give the groups of `info`; numbers are numbers and truths are booleans."""
        groups: dict[str, dict[str, object]] = {
            "agent": {"name": self.node.name},
            "runtime": runtime(),
            "serf": self.node.stats(),
            "tags": dict(self.node.tags),
            "event_handlers": dict(self._handlers.configured()),
        }
        fares = {
            f"{handler} {what}": value
            for handler, stats in self._handlers.stats().items()
            for what, value in stats.items()
        }
        protection = self.node.encryption_status()
        optional: dict[str, dict[str, object]] = {
            "handler_stats": fares,
            "protection": protection if self._is_protected(protection) else {},
            "dropped": dict(self.node.dropped()),
            "dropped_from": dict(self.node.dropped_from()),
        }
        groups.update({name: group for name, group in optional.items() if group})
        return groups

    @staticmethod
    def _is_protected(protection: Mapping[str, object]) -> bool:
        return any(protection[what] for what in ("keys", "label", "allowed_networks"))

    async def set_tags(
        self,
        set: Mapping[str, str],  # noqa: A002 - the name that all interfaces use
        delete: Iterable[str] = (),
    ) -> Mapping[str, str]:
        """Change this node's tags, and the tags file where there is one; give the new ones.

        Raises:
            TooLarge: nothing has changed.
            ConfigError: the tags have changed, but the file cannot be written.
        """
        tags = await self.node.set_tags(set, delete)
        if self.config.tags_file:
            path = Path(self.config.tags_file)
            try:
                await trio.to_thread.run_sync(tags_file.save, path, tags)
            except OSError as error:
                why = error.strerror or str(error)
                raise ConfigError(
                    f"the tags are set, but tags_file {path} cannot be written: {why}"
                ) from error
        return tags

    async def leave(self) -> None:
        """Leave the cluster gracefully; does not end the agent."""
        _log.info("requesting graceful leave from Serf")
        if self._snapshot is not None:
            await self._snapshot.leave(rejoin=self.config.rejoin_after_leave)
        await self.node.leave()

    async def reload(self, config: AgentConfig) -> None:
        """Take log level, event handlers, tags and encryption from a new configuration.

        Tags that a file keeps stay as they are: what was set at run time is in there. Keys are
        taken by an agent that has none; one that has some keeps them, for they change by key
        queries.

        Raises:
            ConfigError: a handler that is none, keys that cannot be used, or none where there
                were some; nothing has changed then.
            TooLarge: the tags; all else has changed.
        """
        handlers = [Handler.parse(text) for text in config.event_handlers]
        await self._reload_protection(config)
        self.logs.set_level(config.log_level)
        self._handlers.replace(handlers)
        if not self.config.tags_file:
            new = config.own_tags
            await self.node.set_tags(new, [key for key in self.node.tags if key not in new])
        self.config = config

    async def _reload_protection(self, config: AgentConfig) -> None:
        node, keyring = self.node, None
        if node.keyring is None:
            keyring = await trio.to_thread.run_sync(start_keyring, config)
        elif not config.encrypt_key and not config.keyring_file:
            raise ConfigError(
                "encrypt_key: there is none any more; an agent stops encrypting by a restart only"
            )
        self._keyring_file.path = config.keyring_file
        await node.configure_encryption(
            keyring,
            verify_incoming=config.node.verify_incoming,
            verify_outgoing=config.node.verify_outgoing,
        )
        if keyring is not None:
            _log.info("%d keys loaded", len(keyring.keys))

    async def join(self, addresses: Sequence[str], *, replay: bool = False) -> int:
        """Join, and say so in the log.

        Raises:
            JoinFailed: nobody could be reached.
        """
        told = "true" if replay else "false"
        _log.info("joining: [%s] replay: %s", " ".join(addresses), told)
        try:
            joined = await self.node.join(addresses, replay)
        except JoinFailed as error:
            _log.warning("error joining: %s", error)
            raise
        _log.info("joined: %d nodes", joined)
        return joined


@asynccontextmanager
async def open_agent(
    config: AgentConfig,
    logs: Logs,
    *,
    files: Files | None = None,
    rng: random.Random | None = None,
) -> AsyncIterator[Agent]:
    """Run an agent for as long as the block lasts.

    The end of the block stops it as a crash would; `Agent.leave` before that is the polite way.

    Args:
        config: everything that can be configured.
        logs: its log.
        files: where snapshots are kept; the disk unless given.
        rng: all randomness.

    Raises:
        ConfigError: a configuration that cannot work.
        AddressError: an address that cannot be bound or advertised.
        NameConflict: another member has our name, and the majority sides with it.
    """
    senders = _metrics_senders(config)
    files = files or DiskFiles()
    rng = rng or random.Random()
    told = node_config(config)
    handlers = [Handler.parse(text) for text in config.event_handlers]
    path = Path(config.snapshot_path) if config.snapshot_path else None
    replayed = EMPTY
    if path is not None:
        replayed = await load_snapshot(path, files, rejoin=config.rejoin_after_leave)
    keyring_file = KeyringFile(files, config.keyring_file)
    sinks: list[Sink] = [*senders]
    async with AsyncExitStack() as stack:
        if config.metrics_addr:
            with require_extra("metrics_addr", "prometheus"):
                from trioserf.agent.prometheus import open_page
            sinks.append(await stack.enter_async_context(open_page(config.metrics_addr)))
        opening = open_node(
            told,
            resolver=SystemResolver(config.dns_servers),
            rng=rng,
            restore=replayed.clocks,
            save_keyring=keyring_file.save,
        )
        _log.info("Serf agent starting")
        node = await stack.enter_async_context(opening)
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        metrics = Metrics(node, sinks, host=socket.gethostname() if senders else "")
        stack.enter_context(node.watch(metrics.record))
        for sender in senders:
            nursery.start_soon(sender.run)
        nursery.start_soon(metrics.run)
        writer = None
        if path is not None:
            writer = SnapshotWriter(path, replayed, node, files, node.counters)
            events = stack.enter_context(node.subscribe(buffer=_SNAPSHOT_BUFFER))
            nursery.start_soon(writer.run, events)
        running = Handlers(
            handlers,
            node,
            timeout=config.handler_timeout,
            limit=config.handler_limit,
            depth=config.handler_queue,
            tally=node.counters,
        )
        agent = Agent(config, node, logs, running, writer, metrics, keyring_file)
        await nursery.start(running.run)
        stack.enter_context(_joining(agent, replayed, rng, nursery))
        yield agent


def _metrics_senders(config: AgentConfig) -> list[MetricsSender]:
    """Make those that send metrics away (raises ConfigError)."""
    servers = {"statsite": config.statsite_addr, "statsd": config.statsd_addr}
    return [
        MetricsSender(kind, split_address(address, f"{kind}_addr"))
        for kind, address in servers.items()
        if address
    ]


@contextmanager
def _joining(
    agent: Agent, replayed: SnapshotContents, rng: random.Random, nursery: trio.Nursery
) -> Iterator[None]:
    """Find others in all the ways that are configured, in tasks of this nursery.

    Raises:
        ConfigError: discovery cannot be started.
    """
    config, node = agent.config, agent.node
    with ExitStack() as stack:
        if config.discover:
            with require_extra("discover", "mdns"):
                from trioserf.agent.discovery import open_discovery
            found = partial(agent.join, replay=config.replay_on_join)
            discovery = stack.enter_context(open_discovery(config, node, found))
            nursery.start_soon(discovery.run)
        nursery.start_soon(_rejoin, node, replayed, rng)
        if config.retry_join:
            nursery.start_soon(_retry_join, agent)
        yield


async def _rejoin(node: Node, replayed: SnapshotContents, rng: random.Random) -> None:
    """Join whom we knew before the restart, until one of them answers."""
    others = previous_members(replayed, node.name, rng)
    for start in range(0, len(others), _REJOINED_AT_ONCE):
        some = others[start : start + _REJOINED_AT_ONCE]
        for name, at in some:
            _serf_log.info("Attempting re-join to previously known node: %s: %s", name, at)
        try:
            await node.join([f"{name}/{at}" for name, at in some])
        except JoinFailed as error:
            _serf_log.debug("%s", error)
        else:
            _serf_log.info("Re-joined to previously known nodes")
            return
    if others:
        _serf_log.warning("Failed to re-join any previously known node")


async def _retry_join(agent: Agent) -> None:
    """Join, and try again until it works or there were enough attempts."""
    config = agent.config
    attempt = 0
    while True:
        _log.info("Joining cluster...(replay: %s)", str(config.replay_on_join).lower())
        try:
            joined = await agent.join(config.retry_join, replay=config.replay_on_join)
        except JoinFailed as error:
            attempt += 1
            if config.retry_max_attempts and attempt > config.retry_max_attempts:
                _log.error("maximum retry join attempts made, exiting")
                agent.failure = f"no member could be joined: {error}"
                agent.shutdown.set()
                return
            _log.warning("Join failed: %s, retrying in %gs", error, config.retry_interval)
            await trio.sleep(config.retry_interval)
        else:
            _log.info("Join completed. Synced with %d initial agents", joined)
            return


def runtime() -> dict[str, object]:
    """Describe the process, in the terms of `info`."""
    machine = platform.machine()
    cores = os.cpu_count() or 1
    return {
        "os": platform.system().lower(),
        "arch": _ARCHITECTURES.get(machine, machine),
        "version": f"python{platform.python_version()}",
        "max_procs": cores,
        "goroutines": trio.lowlevel.current_statistics().tasks_living,
        "cpu_count": cores,
    }
