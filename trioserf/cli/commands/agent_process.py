"""The process of an agent: banner, signals, exit codes (see agent/README.md, § Signals).

Does not import typer, which would stay in the memory of the agent.
"""

import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, Final

import trio

from trioserf.agent.agent import Agent, open_agent
from trioserf.agent.config import AgentConfig, Sources
from trioserf.agent.logs import Logs, disable_caller_info, open_logs
from trioserf.agent.node_config import bind_address, split_bind
from trioserf.cli.output import FAILED, CommandError, Output
from trioserf.control.address import unix_path
from trioserf.control.server.audit import open_audit
from trioserf.control.server.listener import Server, load_tls, open_control
from trioserf.control.tls import TlsFiles, split_tls
from trioserf.errors import JoinFailed, TrioserfError
from trioserf.exception_groups import leaf_exceptions
from trioserf.node import Phase
from trioserf.node.memory import freeze_startup_memory

_log = logging.getLogger("trioserf.agent")
_serf_log = logging.getLogger("trioserf.serf")

GRACE: Final = 3.0
"""Time limit of a graceful leave, in seconds."""
_NAMES: Final = {signal.SIGINT: "interrupt", signal.SIGTERM: "terminated"}
_HANDLED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def run_agent(stdout: BinaryIO, paths: Sequence[str], overrides: Mapping[str, Any]) -> int:
    """Run an agent until a signal, a client or an error ends it; return the exit code.

    Args:
        stdout: stream for the banner and for errors; the log goes to stderr.
        paths: configuration files, and directories of them.
        overrides: configuration keys from the command line.

    Raises:
        OutputError: an error that could not be written.
    """
    out = Output(stdout)
    try:
        return _run(out, paths, overrides)
    except CommandError as error:
        out.error(error)
        return FAILED


def _run(out: Output, paths: Sequence[str], overrides: Mapping[str, Any]) -> int:
    sources = Sources(paths, overrides)
    try:
        config = sources.load(lambda text: out.line_best_effort(f"==> Warning: {text}"))
        _report_interface(out, config)
    except TrioserfError as error:
        raise CommandError(_prefix_lines(str(error)), "bad_config") from error
    errors: list[BaseException] = []
    code = FAILED
    disable_caller_info()
    with open_logs(config.log_level) as logs:
        try:
            with _syslog(config, logs):
                code = trio.run(_serve, out, config, sources, logs)
        except* TrioserfError as group:
            errors += leaf_exceptions(group)
    if errors:
        raise CommandError("\n".join(map(_error_text, errors)), "failed")
    return code


def _report_interface(out: Output, config: AgentConfig) -> None:
    """Report the address of the interface, if none was given (raises TrioserfError)."""
    if config.interface:
        host = bind_address(config).host
        if host != split_bind(config.bind, "bind")[0]:
            out.line_best_effort(f"==> Using interface '{config.interface}' address '{host}'")


@contextmanager
def _syslog(config: AgentConfig, logs: Logs) -> Iterator[None]:
    """Log to syslog, too, during the block, if configured (raises ConfigError)."""
    if not config.enable_syslog:
        yield
        return
    from trioserf.agent.syslog import PATHS, open_syslog

    paths = [config.syslog_path] if config.syslog_path else PATHS
    with open_syslog(config.syslog_facility, paths) as syslog, logs.tee(syslog.write):
        yield


def _error_text(error: BaseException) -> str:
    """Return the text of an error; a failed join is a list, as in Go."""
    if not isinstance(error, JoinFailed):
        return _prefix_lines(str(error))
    several = "s" if len(error.causes) > 1 else ""
    causes = "".join(f"\t* Failed to join {at}: {why}\n" for at, why in error.causes)
    return f"==> {len(error.causes)} error{several} occurred:\n{causes}"


def _prefix_lines(text: str) -> str:
    return "\n".join(f"==> {line}" for line in text.splitlines())


async def _serve(out: Output, config: AgentConfig, sources: Sources, logs: Logs) -> int:
    out.line_best_effort("==> Starting Serf agent...")
    with trio.open_signal_receiver(*_HANDLED) as signals:
        async with open_agent(config, logs) as agent:
            out.line_best_effort("==> Starting Serf agent RPC...")
            counters = agent.node.counters
            async with (
                open_audit(config.audit_log, counters=counters) as audit,
                open_control(
                    agent,
                    config.rpc_addr,
                    auth=config.rpc_auth,
                    tokens=config.rpc_tokens,
                    allow=config.rpc_allow,
                    tls=_tls_files(config),
                    counters=counters,
                    audit=audit,
                ) as control,
            ):
                if warning := open_handlers_warning(config, os.geteuid()):
                    _log.warning("%s", warning)
                out.line_best_effort("==> Serf agent running!")
                for label, value in _banner(agent, control):
                    out.line_best_effort(f"{label:>31}: {value}")
                    if label == "Bind addr" and config.advertise:
                        # Serf does not align this one.
                        out.line_best_effort(f"    Advertise addr: '{agent.node.address}'")
                await _start_join(out, agent)
                out.line_best_effort()
                out.line_best_effort("==> Log data will now stream in as it occurs:")
                out.line_best_effort()
                freeze_startup_memory()
                logs.release()
                code = await _Shutdown(out, agent, control, sources).wait(signals)
            _log.info("requesting serf shutdown")
            if agent.node.phase is Phase.ALIVE:
                _serf_log.warning("Shutdown without a Leave")
        _log.info("shutdown complete")
    if agent.failure:
        raise CommandError(_prefix_lines(agent.failure), "failed")
    return code


def _tls_files(config: AgentConfig) -> TlsFiles | None:
    files = TlsFiles(config.rpc_tls_cert, config.rpc_tls_key, config.rpc_tls_client_ca)
    return files if files.cert else None


def open_handlers_warning(config: AgentConfig, uid: int) -> str:
    """Return a warning if every local user can run handlers as root; otherwise nothing.

    Args:
        config: the configuration.
        uid: the user of this process.
    """
    has_certificates = bool(config.rpc_tls_client_ca)
    ports = [
        address
        for address in config.rpc_addr
        if unix_path(address) is None and not (has_certificates and split_tls(address)[0])
    ]
    has_key = config.rpc_auth or config.rpc_tokens
    if uid != 0 or not config.event_handlers or not ports or has_key:
        return ""
    return (
        f"every user who can connect to {ports[0]} can run the event handlers as root; set"
        " rpc_addr = unix:/run/trioserf.sock, or rpc_auth or rpc_tokens"
    )


def _banner(agent: Agent, control: Server) -> list[tuple[str, str]]:
    config = agent.config
    lines = [
        ("Node name", f"'{agent.node.name}'"),
        ("Bind addr", f"'{agent.node.bound}'"),
        ("RPC addr", f"'{', '.join(control.addresses)}'"),
        ("Encrypted", _go_bool(agent.node.keyring is not None)),
        ("Snapshot", _go_bool(bool(config.snapshot_path))),
        ("Profile", config.profile),
        ("Message Compression Enabled", _go_bool(config.node.compression)),
    ]
    if config.discover:
        lines.append(("mDNS cluster", config.discover))
    return lines


def _go_bool(value: bool) -> str:
    return "true" if value else "false"


async def _start_join(out: Output, agent: Agent) -> None:
    config = agent.config
    if not config.start_join:
        return
    out.line_best_effort(f"==> Joining cluster...(replay: {_go_bool(config.replay_on_join)})")
    joined = await agent.join(config.start_join, replay=config.replay_on_join)
    out.line_best_effort(f"    Join completed. Synced with {joined} initial agents")


class _Shutdown:
    """Waits for the end of an agent; a signal may cause it."""

    def __init__(self, out: Output, agent: Agent, control: Server, sources: Sources) -> None:
        self._out = out
        self._agent = agent
        self._control = control
        self._sources = sources
        self._code = 0
        self._leaving = False
        self._scope = trio.CancelScope()

    async def wait(self, signals: AsyncIterator[int]) -> int:
        """Wait for the end; return the exit code."""
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
                _dump_metrics(self._agent)
            else:
                self._out.line_best_effort(f"==> Caught signal: {_NAMES[signal.Signals(number)]}")
                if self._leaving or not self._graceful(number):
                    self._end(1)
                    return
                self._leaving = True
                self._out.line_best_effort("==> Gracefully shutting down agent...")
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
        self._out.line_best_effort("==> Caught signal: hangup")
        self._out.line_best_effort("==> Reloading configuration...")
        _log.info("Reloading configuration...")
        try:
            config = self._sources.load()
            files = _tls_files(config) if self._control.tls is not None else None
            certificates = await load_tls(files)
            await self._agent.reload(config)
        except TrioserfError as error:
            _log.error("the configuration stays as it was: %s", error)
            self._out.line_best_effort("==> Failed to reload configs")
        else:
            self._control.tls = certificates or self._control.tls
            _log.info("Configuration reloaded")
        await self._control.reload()


def _dump_metrics(agent: Agent) -> None:
    """Write the metrics of the last minute to stderr, if it can be written."""
    with suppress(OSError):
        sys.stderr.write(agent.metrics.text())
        sys.stderr.flush()
