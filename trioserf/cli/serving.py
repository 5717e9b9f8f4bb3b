"""Running the agent as a program: banner, signals, exit codes (spec: signals)."""

import logging
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

import trio

from trioserf.agent.agent import Agent, open_agent
from trioserf.agent.config import AgentConfig, Sources
from trioserf.agent.logs import Logs, disable_caller_info, open_logs
from trioserf.agent.node_config import bind_address, split_bind
from trioserf.cli.output import Failure, Out
from trioserf.control.server.listener import Server, open_control
from trioserf.errors import JoinFailed, TrioserfError
from trioserf.node import Phase
from trioserf.node.memory import freeze_startup_memory

_log = logging.getLogger("trioserf.agent")
_serf_log = logging.getLogger("trioserf.serf")

GRACE: Final = 3.0
"""Seconds that a graceful leave may take."""
_NAMES: Final = {signal.SIGINT: "interrupt", signal.SIGTERM: "terminated"}
_HEARD: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def serve(out: Out, paths: Sequence[str], overrides: Mapping[str, Any]) -> int:
    """Run an agent until it is told to end; gives the exit code.

    Args:
        out: where the banner goes; the log goes to stderr.
        paths: configuration files, and directories of them.
        overrides: keys from the command line.

    Raises:
        Failure: it could not start, or ended by an error.
    """
    sources = Sources(paths, overrides)
    try:
        config = sources.load(lambda text: out.notice(f"==> Warning: {text}"))
        _tell_address(out, config)
    except TrioserfError as error:
        raise Failure(_arrows(str(error)), "bad_config") from error
    faults: list[TrioserfError] = []
    code = 1
    disable_caller_info()
    with open_logs(config.log_level) as logs:
        try:
            with _syslog(config, logs):
                code = trio.run(_serve, out, config, sources, logs)
        except* TrioserfError as group:
            faults += _leaves(group)
    if faults:
        raise Failure("\n".join(map(_told, faults)), "failed")
    return code


def _tell_address(out: Out, config: AgentConfig) -> None:
    """Say which address of an interface it is, if that was left open (raises TrioserfError)."""
    if config.interface:
        host = bind_address(config).host
        if host != split_bind(config.bind, "bind")[0]:
            out.notice(f"==> Using interface '{config.interface}' address '{host}'")


@contextmanager
def _syslog(config: AgentConfig, logs: Logs) -> Iterator[None]:
    """Log to syslog too while the block lasts, if so configured (raises ConfigError)."""
    if not config.enable_syslog:
        yield
        return
    from trioserf.agent.syslog import PATHS, open_syslog

    paths = [config.syslog_path] if config.syslog_path else PATHS
    with open_syslog(config.syslog_facility, paths) as syslog, logs.tee(syslog.write):
        yield


def _told(error: TrioserfError) -> str:
    """Say why it ends; a failed join as Go lists errors."""
    if not isinstance(error, JoinFailed):
        return _arrows(str(error))
    several = "s" if len(error.causes) > 1 else ""
    causes = "".join(f"\t* Failed to join {at}: {why}\n" for at, why in error.causes)
    return f"==> {len(error.causes)} error{several} occurred:\n{causes}"


def _arrows(text: str) -> str:
    return "\n".join(f"==> {line}" for line in text.splitlines())


def _leaves(group: BaseExceptionGroup[TrioserfError]) -> list[TrioserfError]:
    found: list[TrioserfError] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


async def _serve(out: Out, config: AgentConfig, sources: Sources, logs: Logs) -> int:
    out.notice("==> Starting Serf agent...")
    with trio.open_signal_receiver(*_HEARD) as signals:
        async with open_agent(config, logs) as agent:
            out.notice("==> Starting Serf agent RPC...")
            async with open_control(
                agent, config.rpc_addr, auth=config.rpc_auth, tally=agent.node.counters
            ) as control:
                out.notice("==> Serf agent running!")
                for label, value in _banner(agent, control):
                    out.notice(f"{label:>31}: {value}")
                    if label == "Bind addr" and config.advertise:
                        # Serf does not align this one.
                        out.notice(f"    Advertise addr: '{agent.node.address}'")
                await _start_join(out, agent)
                out.notice()
                out.notice("==> Log data will now stream in as it occurs:")
                out.notice()
                freeze_startup_memory()
                logs.release()
                code = await _Ending(out, agent, sources).wait(signals)
            _log.info("requesting serf shutdown")
            if agent.node.phase is Phase.ALIVE:
                _serf_log.warning("Shutdown without a Leave")
        _log.info("shutdown complete")
    if agent.failure:
        raise Failure(_arrows(agent.failure), "failed")
    return code


def _banner(agent: Agent, control: Server) -> list[tuple[str, str]]:
    config = agent.config
    lines = [
        ("Node name", f"'{agent.node.name}'"),
        ("Bind addr", f"'{agent.node.bound}'"),
        ("RPC addr", f"'{', '.join(control.addresses)}'"),
        ("Encrypted", _truth(agent.node.keyring is not None)),
        ("Snapshot", _truth(bool(config.snapshot_path))),
        ("Profile", config.profile),
        ("Message Compression Enabled", _truth(config.node.compression)),
    ]
    if config.discover:
        lines.append(("mDNS cluster", config.discover))
    return lines


def _truth(value: bool) -> str:
    return "true" if value else "false"


async def _start_join(out: Out, agent: Agent) -> None:
    config = agent.config
    if not config.start_join:
        return
    out.notice(f"==> Joining cluster...(replay: {_truth(config.replay_on_join)})")
    joined = await agent.join(config.start_join, replay=config.replay_on_join)
    out.notice(f"    Join completed. Synced with {joined} initial agents")


class _Ending:
    """Waits for the end of an agent, and brings it about when a signal says so."""

    def __init__(self, out: Out, agent: Agent, sources: Sources) -> None:
        self._out = out
        self._agent = agent
        self._sources = sources
        self._code = 0
        self._leaving = False
        self._scope = trio.CancelScope()

    async def wait(self, signals: AsyncIterator[int]) -> int:
        """Wait for the end; gives the exit code."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, signals, nursery)
                await self._agent.shutdown.wait()
                self._end(1 if self._agent.failure else 0)
        return self._code

    def _end(self, code: int) -> None:
        self._code = code
        self._scope.cancel()

    async def _listen(self, signals: AsyncIterator[int], nursery: trio.Nursery) -> None:
        async for number in signals:
            if number == signal.SIGHUP:
                await self._reload()
            elif number == signal.SIGUSR1:
                dump(self._agent)
            else:
                self._out.notice(f"==> Caught signal: {_NAMES[signal.Signals(number)]}")
                if self._leaving or not self._graceful(number):
                    self._end(1)
                    return
                self._leaving = True
                self._out.notice("==> Gracefully shutting down agent...")
                nursery.start_soon(self._leave)

    def _graceful(self, number: int) -> bool:
        config = self._agent.config
        if number == signal.SIGINT:
            return not config.skip_leave_on_interrupt
        return config.leave_on_terminate

    async def _leave(self) -> None:
        with trio.move_on_after(GRACE) as deadline:
            await self._agent.leave()
        if deadline.cancelled_caught:
            _log.error("the leave took longer than %g s", GRACE)
        self._end(1 if deadline.cancelled_caught else 0)

    async def _reload(self) -> None:
        self._out.notice("==> Caught signal: hangup")
        self._out.notice("==> Reloading configuration...")
        _log.info("Reloading configuration...")
        try:
            await self._agent.reload(self._sources.load())
        except TrioserfError as error:
            _log.error("the configuration stays as it was: %s", error)
            self._out.notice("==> Failed to reload configs")
        else:
            _log.info("Configuration reloaded")


def dump(agent: Agent) -> None:
    """Write the metrics of the last minute to stderr."""
    with suppress(OSError):  # nobody may be there to read it
        sys.stderr.write(agent.metrics.text())
        sys.stderr.flush()
