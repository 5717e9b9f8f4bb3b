"""The agent: a node with event handlers, files, metrics, and joins that are retried."""

import logging
import os
import platform
import random
import socket
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from trioserf._version import __version__
from trioserf.agent import tags_file
from trioserf.agent.config import AgentConfig
from trioserf.agent.config_reload import TLS_KEYS, merge_reloaded
from trioserf.agent.files import DiskFiles, Files
from trioserf.agent.handlers import Handler, Handlers
from trioserf.agent.health_checks import HealthChecks
from trioserf.agent.http_options import HTTP_EXTRA
from trioserf.agent.keyring_file import KeyringFile
from trioserf.agent.logs import Logs
from trioserf.agent.metrics import Metrics, Sink
from trioserf.agent.node_config import node_config, start_keyring
from trioserf.agent.optional_dependencies import require_extra
from trioserf.agent.orphans import OrphanReaper, adopts_orphans
from trioserf.agent.script_rights import (
    ScriptUser,
    control_environment,
    limiting_command,
    script_environment,
)
from trioserf.agent.script_runner import ShellRunner
from trioserf.errors import ConfigError, JoinFailed, NameInUse
from trioserf.net.resolver import SystemResolver
from trioserf.net.threads import limited_lookups, run_in_thread
from trioserf.node import Node, NodeConfig, open_node
from trioserf.operating_system import host
from trioserf.operating_system.descriptors import limit_of_scripts
from trioserf.printable import short_name
from trioserf.serf.snapshot import EMPTY, SnapshotContents

if TYPE_CHECKING:
    from trioserf.agent.prometheus import PrometheusPage
    from trioserf.agent.snapshot import SnapshotWriter
    from trioserf.agent.statsd import MetricsSender

_log = logging.getLogger("trioserf.agent")
_serf_log = logging.getLogger("trioserf.serf")

_SNAPSHOT_BUFFER: Final = 8192
"""Events that wait between two writes; if some are dropped, the members are recorded instead."""
_REJOIN_BATCH: Final = 10
_KEYS: Final = frozenset({"encrypt_key", "encrypt_key_file", "keyring_file"})
"""Configuration keys with keys of gossip, which an agent without them applies at run time."""
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm"}
"""Go's names of machines."""


class Agent:
    """The process around a node, for the control port; made by `open_agent`.

    Attributes:
        config: the configuration.
        node: the node.
        logs: the log.
        shutdown: set to end the agent.
        failure: the error that ends the agent, if any.
        metrics: the metrics.
        page: the metrics for Prometheus, if there is an address of HTTP.
        health: what it says about itself.
    """

    def __init__(
        self,
        config: AgentConfig,
        node: Node,
        logs: Logs,
        handlers: Handlers,
        snapshot: "SnapshotWriter | None",
        metrics: Metrics,
        keyring_file: KeyringFile,
        script_user: ScriptUser | None = None,
        config_files: Sequence[str] = (),
        page: "PrometheusPage | None" = None,
    ) -> None:
        self.config = config
        self.node = node
        self.logs = logs
        self.shutdown = trio.Event()
        self.failure = ""
        self.metrics = metrics
        self.page = page
        self.health = HealthChecks(config, node)
        self._handlers = handlers
        self._snapshot = snapshot
        self._keyring_file = keyring_file
        self._script_user = script_user
        self._config_files = list(config_files)
        self._started_at = trio.current_time()

    def set_control_addresses(self, addresses: Sequence[str]) -> None:
        """Set where the control port listens, for event handlers."""
        config, handlers = self.config, self._handlers
        found = control_environment(addresses, config.rpc_auth, config.handlers, self._script_user)
        handlers.environ = {**handlers.environ, **found}

    def info(self) -> dict[str, dict[str, object]]:
        """Return the groups of `info`; numbers are int or float, flags are bool."""
        groups: dict[str, dict[str, object]] = {
            "agent": {
                "name": self.node.name,
                "version": __version__,
                "pid": os.getpid(),
                "uptime": round(trio.current_time() - self._started_at, 3),
                "advertise": str(self.node.address),
                "config_files": self._config_files,
            },
            "runtime": runtime(),
            "serf": self.node.stats(),
            "tags": dict(self.node.tags),
            "event_handlers": dict(self._handlers.configured()),
        }
        by_handler = self._handlers.stats()
        handler_stats: dict[str, object] = dict(self._handlers.totals()) if by_handler else {}
        handler_stats |= {
            f"{handler} {key}": value
            for handler, stats in by_handler.items()
            for key, value in stats.items()
        }
        status = self.node.encryption_status()
        optional: dict[str, dict[str, object]] = {
            "handler_stats": handler_stats,
            "protection": status if self._is_protected(status) else {},
            "dropped": dict(self.node.dropped()),
            "dropped_from": dict(self.node.dropped_from()),
            "log": {"lost_lines": lost} if (lost := self.logs.count_lost()) else {},
        }
        groups.update({name: group for name, group in optional.items() if group})
        return groups

    @staticmethod
    def _is_protected(status: Mapping[str, object]) -> bool:
        return any(status[key] for key in ("keys", "label", "allowed_networks"))

    async def set_tags(
        self,
        set: Mapping[str, str],  # noqa: A002 - the name that all interfaces use
        delete: Iterable[str] = (),
    ) -> Mapping[str, str]:
        """Change this node's tags, and the tags file if there is one; return the new tags.

        Raises:
            TooLarge: the tags do not fit; nothing has changed.
            ConfigError: the tags have changed, but the file cannot be written.
        """
        tags = await self.node.set_tags(set, delete)
        if self.config.tags_file:
            path = Path(self.config.tags_file)
            try:
                await run_in_thread(partial(tags_file.save, path, tags))
            except OSError as error:
                why = error.strerror or str(error)
                raise ConfigError(
                    f"the tags are set, but tags_file {path} cannot be written: {why}"
                ) from error
        return tags

    async def leave(self) -> None:
        """Leave the cluster gracefully, and sync the snapshot to the disk; the agent goes on.

        The other members do not wait for the disk. If this is cancelled, the snapshot is complete
        all the same; `node.phase` shows whether the node has left.
        """
        _log.info("requesting graceful leave from Serf")
        async with trio.open_nursery() as nursery:
            if self._snapshot is not None:
                rejoin = self.config.rejoin_after_leave
                nursery.start_soon(partial(self._snapshot.leave, rejoin=rejoin))
            await self.node.leave()

    async def reload(self, config: AgentConfig, *, with_tls: bool = False) -> list[str]:
        """Apply log level, event handlers, tags and encryption of a new configuration.

        Tags in a tags file do not change: the file holds tags that were set at run time. Keys are
        loaded only if the agent has none, because keys are changed by key queries.

        Args:
            config: the new configuration.
            with_tls: whether the control port applies new certificates.

        Returns:
            The changed keys that take effect with the next start only, in order.

        Raises:
            ConfigError: a handler or a key is not valid, or the keys were removed; nothing has
                changed then.
            TooLarge: the tags do not fit; everything else has changed.
        """
        handlers = [Handler.parse(text) for text in config.event_handlers]
        had_keys = self.node.keyring is not None
        await self._reload_encryption(config)
        configure_logs(self.logs, config)
        self._handlers.replace(handlers)
        if not self.config.tags_file and not config.tags_file:
            new = config.own_tags
            await self.node.set_tags(new, [key for key in self.node.tags if key not in new])
        applied = frozenset({"keyring_file"} if had_keys else _KEYS)
        self.config, later = merge_reloaded(
            self.config, config, applied=applied, skipped=() if with_tls else TLS_KEYS
        )
        return later

    async def _reload_encryption(self, config: AgentConfig) -> None:
        node, keyring = self.node, None
        if node.keyring is None:
            try:
                keyring = await run_in_thread(partial(start_keyring, config))
            except OSError as error:
                raise ConfigError(f"the keys cannot be read: {error.strerror}") from error
        elif not config.encrypt_key and not config.keyring_file:
            raise ConfigError(
                "encrypt_key: missing; an agent with a key must be restarted to stop encrypting"
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
        """Join members, and log that; the caller logs or reports a failure.

        Raises:
            JoinFailed: no member could be reached.
        """
        _log.info("joining: [%s] replay: %s", " ".join(addresses), str(replay).lower())
        joined = await self.node.join(addresses, replay)
        self.health.joined.set()
        _log.info("joined: %(joined)d nodes", {"joined": joined})
        return joined


@asynccontextmanager
async def open_agent(
    config: AgentConfig,
    logs: Logs,
    *,
    files: Files | None = None,
    rng: random.Random | None = None,
    config_files: Sequence[str] = (),
) -> AsyncIterator[Agent]:
    """Run an agent while the block runs.

    The end of the block stops the agent like a crash; call `Agent.leave` before to leave the
    cluster gracefully.

    Args:
        config: the configuration.
        logs: the log.
        files: keeps snapshot and keys; default: the disk.
        rng: all randomness.
        config_files: files and directories that the configuration was read from, for `info`.

    Raises:
        ConfigError: the configuration cannot be used.
        AddressError: an address cannot be bound or advertised.
        NameConflict: another member keeps our name (see serf/README.md, § Name conflicts).
    """
    senders = _metrics_senders(config)
    files = files or DiskFiles()
    rng = rng or random.Random()
    complete_config = await _complete(config)
    user = ScriptUser.find(config.handlers.user) if config.handlers.user else None
    limits = limiting_command(config.handlers, user, limit_of_scripts())
    reaper = OrphanReaper()
    runner = ShellRunner(user, limits, reaper)
    parsed = [Handler.parse(text) for text in config.event_handlers]
    path = Path(config.snapshot_path) if config.snapshot_path else None
    contents = EMPTY
    if path is not None:
        from trioserf.agent.snapshot import load_snapshot

        contents = await load_snapshot(path, files, rejoin=config.rejoin_after_leave)
    keyring_file = KeyringFile(files, config.keyring_file)
    sinks: list[Sink] = [*senders]
    async with AsyncExitStack() as stack:
        stack.enter_context(limited_lookups())
        page = _page(config)
        if page is not None:
            sinks.append(page)
        opening = open_node(
            complete_config,
            resolver=SystemResolver(config.dns_servers),
            rng=rng,
            restore=contents.clocks,
            save_keyring=keyring_file.save,
        )
        _log.info("Serf agent starting")
        node = await stack.enter_async_context(opening)
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        nursery.start_soon(logs.limits.run)
        nursery.start_soon(logs.run)
        if adopts_orphans():
            nursery.start_soon(reaper.run)
        metrics = Metrics(node, sinks, host=socket.gethostname() if senders else "")
        stack.enter_context(node.watch(metrics.record))
        for sender in senders:
            nursery.start_soon(sender.run)
        nursery.start_soon(metrics.run)
        writer = None
        if path is not None:
            from trioserf.agent.snapshot import SnapshotWriter

            writer = SnapshotWriter(path, contents, node, files, node.counters)
            events = stack.enter_context(node.subscribe(buffer=_SNAPSHOT_BUFFER))
            nursery.start_soon(writer.run, events)
        environ = script_environment(
            host.environment(), config.handlers, user, (config.rpc_auth, config.encrypt_key)
        )
        handlers = Handlers(
            parsed,
            node,
            config.handlers,
            runner=runner,
            environ=environ,
            counters=node.counters,
        )
        agent = Agent(
            config, node, logs, handlers, writer, metrics, keyring_file, user, config_files, page
        )
        if page is not None:
            page.watch(node, handlers)
        stack.enter_context(node.watch(agent.health.note_member))
        agent.set_control_addresses(config.rpc_addr)
        await nursery.start(handlers.run)
        stack.enter_context(_start_joins(agent, contents, rng, nursery))
        yield agent


async def _complete(config: AgentConfig) -> NodeConfig:
    """Return the node's configuration; a cancelled caller does not wait for look-ups.

    Raises:
        ConfigError: the configuration cannot be used.
        AddressError: an address cannot be found.
    """
    try:
        return await run_in_thread(partial(node_config, config), abandon=True)
    except OSError as error:
        raise ConfigError(f"the configuration cannot be read: {error.strerror}") from error


def _metrics_senders(config: AgentConfig) -> "list[MetricsSender]":
    """Return the configured senders of metrics (raises ConfigError)."""
    if not config.statsite_addr and not config.statsd_addr:
        return []
    from trioserf.agent.statsd import MetricsSender, split_address

    servers = {"statsite": config.statsite_addr, "statsd": config.statsd_addr}
    return [
        MetricsSender(kind, split_address(address, f"{kind}_addr"))
        for kind, address in servers.items()
        if address
    ]


def _page(config: AgentConfig) -> "PrometheusPage | None":
    """Return the metrics for Prometheus, if an address serves them (raises ConfigError)."""
    if not config.http.addresses:
        return None
    with require_extra(config.http.key, HTTP_EXTRA):
        from trioserf.agent.prometheus import PrometheusPage
    return PrometheusPage()


@contextmanager
def _start_joins(
    agent: Agent, contents: SnapshotContents, rng: random.Random, nursery: trio.Nursery
) -> Iterator[None]:
    """Start the tasks that find and join other members, as configured.

    Raises:
        ConfigError: discovery cannot be started.
    """
    config, node = agent.config, agent.node
    with ExitStack() as stack:
        if config.discover:
            with require_extra("discover", "mdns"):
                from trioserf.agent.discovery import open_discovery
            join = partial(agent.join, replay=config.replay_on_join)
            discovery = stack.enter_context(open_discovery(config, node, join))
            nursery.start_soon(discovery.run)
        if contents is not EMPTY:
            nursery.start_soon(_rejoin_or_fail, agent, contents, rng)
        if config.retry_join:
            nursery.start_soon(_retry_join, agent)
        yield


async def _rejoin_or_fail(agent: Agent, contents: SnapshotContents, rng: random.Random) -> None:
    """Join the members in the snapshot; end the agent if its name is in use."""
    try:
        await _rejoin(agent.node, contents, rng)
    except NameInUse as error:
        _fail(agent, error)


async def _rejoin(node: Node, contents: SnapshotContents, rng: random.Random) -> None:
    """Join the members in the snapshot, in batches, until one batch succeeds."""
    from trioserf.agent.snapshot import previous_members

    others = {
        f"{name}/{address}": (short_name(name), address)
        for name, address in previous_members(contents, node.name, rng)
    }

    def report(text: str) -> None:
        _serf_log.info("Re-joined to previously known node: %s: %s", *others[text])

    rest = iter(others)
    while batch := list(islice(rest, _REJOIN_BATCH)):
        for text in batch:
            _serf_log.info("Attempting re-join to previously known node: %s: %s", *others[text])
        try:
            if await node.join(batch, on_joined=report):
                return
        except NameInUse:
            raise
        except JoinFailed as error:
            _serf_log.debug("%s", error)
    if others:
        _serf_log.warning("Failed to re-join any previously known node")


async def _retry_join(agent: Agent) -> None:
    """Join; retry until it succeeds or the number of attempts is exhausted."""
    config = agent.config
    attempt = 0
    while True:
        _log.info("Joining cluster...(replay: %s)", str(config.replay_on_join).lower())
        try:
            joined = await agent.join(config.retry_join, replay=config.replay_on_join)
        except NameInUse as error:
            _fail(agent, error)
            return
        except JoinFailed as error:
            attempt += 1
            if config.retry_max_attempts and attempt > config.retry_max_attempts:
                _log.error("maximum retry join attempts made, exiting")
                _fail(agent, error)
                return
            named = {"reason": error, "seconds": config.retry_interval}
            _log.warning("Join failed: %(reason)s, retrying in %(seconds)gs", named)
            await trio.sleep(config.retry_interval)
        else:
            _log.info("Join completed. Synced with %d initial agents", joined)
            return


def _fail(agent: Agent, error: JoinFailed) -> None:
    """End an agent that cannot join."""
    agent.failure = f"no member could be joined: {error}"
    agent.shutdown.set()


def configure_logs(logs: Logs, config: AgentConfig) -> None:
    """Apply the keys about levels, format and repeats of lines."""
    logs.set_level(config.log_level, config.logs.levels)
    logs.line_format.json = config.logs.format == "json"
    logs.fold_repeats(config.logs.fold)


def runtime() -> dict[str, object]:
    """Return the group `runtime` of `info`, which describes the process."""
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
