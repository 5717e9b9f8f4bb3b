"""The process of an agent: banner, signals, exit codes (see agent/README.md, § Signals).

Does not import typer, which would stay in the memory of the agent.
"""

import io
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TextIO, cast

import attrs
import trio

from trioserf.agent.agent import Agent, configure_logs, open_agent
from trioserf.agent.config import AgentConfig
from trioserf.agent.config_sources import Sources, require_valid
from trioserf.agent.log_file import LogFile, open_log_file
from trioserf.agent.log_lines import LogFormat, LogLine
from trioserf.agent.logs import Logs, disable_caller_info, open_logs
from trioserf.agent.node_config import bind_address, split_bind
from trioserf.agent.service_manager import ServiceManager
from trioserf.agent.stream_writer import StreamWriter, open_writer
from trioserf.cli import early_signals
from trioserf.cli.output import FAILED, CommandError, Output
from trioserf.control.address import unix_path
from trioserf.control.server.admission import Limits
from trioserf.control.server.audit import open_audit
from trioserf.control.server.binding import ControlSockets, bind_control, load_tls
from trioserf.control.server.config_check import (
    check_configuration,
    socket_rights,
    tls_files,
)
from trioserf.control.server.http_api import bind_http, serve_http
from trioserf.control.server.http_api.binding import HttpSockets, load_files
from trioserf.control.server.listener import Server, serve_control
from trioserf.control.tls import split_tls
from trioserf.errors import JoinFailed, TrioserfError
from trioserf.exception_groups import leaf_exceptions
from trioserf.memory import freeze_startup_memory
from trioserf.net.threads import run_in_thread
from trioserf.node import Phase
from trioserf.node.timers import AutoResetEvent
from trioserf.operating_system.descriptors import low_limit_warning, raise_limit
from trioserf.operating_system.processes import END_SIGNALS, METRICS_SIGNAL, RELOAD_SIGNAL
from trioserf.operating_system.service_manager import (
    ServiceEnvironment,
    is_journal,
    take_environment,
)
from trioserf.operating_system.users import user_id

if TYPE_CHECKING:
    from trioserf.control.server.http_api.server import HttpServer

_log = logging.getLogger("trioserf.agent")
_serf_log = logging.getLogger("trioserf.serf")

_BANNER: Final = 0.1
"""Seconds that the log waits for the reader of the banner; the agent waits, too."""
GRACE: Final = 3.0
"""Time limit of a graceful leave, in seconds."""
_HANDLED: Final = tuple(
    signal.Signals(number)
    for number in (*END_SIGNALS, RELOAD_SIGNAL, METRICS_SIGNAL)
    if number is not None
)


def run_agent(
    stdout: BinaryIO,
    paths: Sequence[str],
    overrides: Mapping[str, Any],
    errors: Sequence[tuple[str, str]],
) -> int:
    """Run an agent until a signal, a client or an error ends it; return the exit code.

    Args:
        stdout: stream for the banner and for errors; the log goes to stderr.
        paths: configuration files, and directories of them.
        overrides: configuration keys from the command line.
        errors: errors of the command line by key, as Serf reports them.

    Raises:
        OutputError: an error that could not be written.
    """
    out = Output(stdout)
    found = take_environment(os.environ)
    try:
        return _run(out, Sources(paths, overrides, os.environ, errors), found)
    except CommandError as error:
        out.error(error)
        return FAILED


def _run(out: Output, sources: Sources, found: ServiceEnvironment) -> int:
    try:
        config = require_valid(
            check_configuration(sources, found.sockets),
            lambda text: out.line_best_effort(f"==> Warning: {text}"),
        )
        _report_interface(out, config)
    except TrioserfError as error:
        raise CommandError(_prefix_lines(str(error)), "bad_config") from error
    errors: list[BaseException] = []
    code = FAILED
    disable_caller_info()
    raise_limit()
    with (
        _streams(out, config) as streams,
        open_logs(config.log_level, streams.log, streams.format) as logs,
    ):
        configure_logs(logs, config)
        logs.count_lost = lambda: streams.writer.lost
        try:
            with _syslog(config, logs):
                code = trio.run(_serve, streams, config, sources, logs, found)
        except* TrioserfError as group:
            errors += leaf_exceptions(group)
    if errors:
        raise CommandError("\n".join(map(_error_text, errors)), "failed")
    return code


@attrs.frozen(eq=False, repr=False)
class _Streams:
    """The streams of a running agent, which does not wait for their readers.

    Attributes:
        stdout: for the banner.
        stderr: for metrics.
        log: for the log: stderr or the file.
        format: formats lines of the log.
        writer: writes the log; a `LogFile` if that is one.
    """

    stdout: StreamWriter
    stderr: TextIO
    log: TextIO
    format: LogFormat
    writer: StreamWriter

    @property
    def out(self) -> Output:
        return Output(cast("BinaryIO", self.stdout))


@contextmanager
def _streams(out: Output, config: AgentConfig) -> Iterator[_Streams]:
    """Write to the standard streams in threads during the block (raises CommandError)."""
    options, descriptor = config.logs, sys.stderr.fileno()
    line_format = LogFormat(priorities=not options.file and is_journal(descriptor, os.environ))

    def line(level: str, message: str) -> bytes:
        return line_format(LogLine(datetime.now(UTC), level, "agent", message)).encode()

    def lost_lines(count: int) -> bytes:
        text = f"{count} lines of the log were lost: standard error was not read in time"
        return line("WARN", text)

    with ExitStack() as stack:
        try:
            stdout = stack.enter_context(open_writer(out.stream.fileno(), _lost_output))
            writer = stack.enter_context(open_writer(descriptor, lost_lines))
            stderr = log = _text_stream(writer, sys.stderr.encoding, sys.stderr.errors)
            if options.file:
                opening = open_log_file(
                    Path(options.file), options.max_size, options.max_files, line, writer.write
                )
                writer = stack.enter_context(opening)
                log = _text_stream(writer, "utf-8", "backslashreplace")
        except OSError as error:
            raise CommandError(f"==> Cannot start: {error.strerror}") from error
        yield _Streams(stdout, stderr, log, line_format, writer)


def _text_stream(writer: StreamWriter, encoding: str, errors: str | None) -> TextIO:
    return io.TextIOWrapper(writer, encoding, errors, write_through=True)  # type: ignore[type-var]


def _lost_output(count: int) -> bytes:
    return b"==> %d lines were lost: standard output was not read in time\n" % count


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
    causes = "".join(f"\t* failed to join {at}: {why}\n" for at, why in error.causes)
    return f"==> {len(error.causes)} error{several} occurred:\n{causes}"


def _prefix_lines(text: str) -> str:
    return "\n".join(f"==> {line}" for line in text.splitlines())


async def _serve(
    streams: _Streams,
    config: AgentConfig,
    sources: Sources,
    logs: Logs,
    found: ServiceEnvironment,
) -> int:
    streams.out.line_best_effort("==> Starting Serf agent...")
    life = _Life(streams, config, sources, found)
    with trio.open_signal_receiver(*_HANDLED) as signals:
        early_signals.repeat()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(life.listen, signals, nursery)
            nursery.start_soon(life.reload)
            nursery.start_soon(life.dump_metrics)
            with life.scope:
                # First the control port: its errors must end the start before gossip begins.
                async with (
                    bind_control(
                        config.rpc_addr,
                        auth=config.rpc_auth,
                        tokens=config.rpc_tokens,
                        allow=config.rpc_allow,
                        rights=socket_rights(config),
                        tls=tls_files(config),
                        inherited=found.sockets,
                    ) as sockets,
                    bind_http(config.http) as http_sockets,
                    open_agent(config, logs, config_files=_paths(sources)) as agent,
                ):
                    await _run_opened(streams, agent, sockets, http_sockets, life)
                _log.info("shutdown complete")
            nursery.cancel_scope.cancel()
    if life.agent is not None and life.agent.failure:
        raise CommandError(_prefix_lines(life.agent.failure), "failed")
    return life.code


def _paths(sources: Sources) -> list[str]:
    return [str(Path(path).absolute()) for path in sources.paths]


async def _run_opened(
    streams: _Streams,
    agent: Agent,
    sockets: ControlSockets,
    http_sockets: HttpSockets | None,
    life: "_Life",
) -> None:
    """Serve the control port and HTTP, join and run until the end."""
    out = streams.out
    out.line_best_effort("==> Starting Serf agent RPC...")
    config, counters = agent.config, agent.node.counters

    async def start() -> None:
        await _start_join(out, agent)
        out.line_best_effort()
        out.line_best_effort("==> Log data will now stream in as it occurs:")
        out.line_best_effort()
        freeze_startup_memory()
        # The log follows the banner, if that is read.
        streams.stdout.wait(_BANNER)
        agent.logs.release()

    async with (
        open_audit(config.audit_log, counters=counters) as audit,
        serve_control(agent, sockets, counters=counters, audit=audit) as control,
        serve_http(agent, http_sockets) as life.http,
    ):
        agent.set_control_addresses(control.addresses)
        for warning in (
            open_handlers_warning(config, user_id()),
            low_limit_warning(config.node.max_streams, Limits().connections),
        ):
            if warning:
                _log.warning("%s", warning)
        out.line_best_effort("==> Serf agent running!")
        for label, value in _banner(agent, control, life.http):
            out.line_best_effort(f"{label:>31}: {value}")
            if label == "Bind addr" and config.advertise:
                # Serf does not align this one.
                out.line_best_effort(f"    Advertise addr: '{agent.node.address}'")
        await life.run(agent, control, start)
        await life.service.stopping()
    _log.info("requesting serf shutdown")
    if agent.node.phase is Phase.ALIVE:
        _serf_log.warning("Shutdown without a Leave")


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


def _banner(agent: Agent, control: Server, http: "HttpServer | None") -> list[tuple[str, str]]:
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
    if http is not None:
        lines.append(("HTTP addr", f"'{', '.join(http.addresses)}'"))
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


class _Life:
    """An agent from its start to its end, and the signals that change it.

    Attributes:
        agent: the agent, when it is open.
        code: the exit code.
        http: the server of HTTP, if there is one.
        scope: what the end cancels: first the start, then `run`.
        service: the service manager.
    """

    def __init__(
        self,
        streams: _Streams,
        config: AgentConfig,
        sources: Sources,
        found: ServiceEnvironment,
    ) -> None:
        self.agent: Agent | None = None
        self.code = 0
        self.http: HttpServer | None = None
        self.scope = trio.CancelScope()
        self.service = ServiceManager(found)
        self._out = streams.out
        self._inherited = found.sockets
        self._streams = streams
        self._config = config
        self._sources = sources
        self._starting = trio.CancelScope()
        self._leaving = False
        self._control: Server | None = None
        self._started = trio.Event()
        self._hangup = AutoResetEvent()
        self._user_signal = AutoResetEvent()

    async def run(
        self, agent: Agent, control: Server, start: Callable[[], Awaitable[None]]
    ) -> None:
        """Complete the start, and wait for the end.

        Args:
            agent: the agent.
            control: its control port.
            start: the rest of the start, which a leave cancels.
        """
        with trio.CancelScope() as self.scope:
            self.agent, self._control = agent, control
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._start, start)
                nursery.start_soon(self.service.run, agent)
                await agent.shutdown.wait()
                self._end(1 if agent.failure else 0)

    async def listen(self, signals: AsyncIterator[int], nursery: trio.Nursery) -> None:
        """Handle signals until cancelled; a slow reload or leave does not delay the next one."""
        async for number in signals:
            if number == RELOAD_SIGNAL:
                self._hangup()
            elif number == METRICS_SIGNAL:
                self._user_signal()
            else:
                self._out.line_best_effort(f"==> Caught signal: {END_SIGNALS[number]}")
                if self._leaving or not self._graceful(number):
                    self._end(1)
                    return
                self._leaving = True
                self._out.line_best_effort("==> Gracefully shutting down agent...")
                self._starting.cancel()
                nursery.start_soon(self._leave)

    async def reload(self) -> None:
        """Read the configuration again after each SIGHUP, until cancelled."""
        await self._started.wait()
        while True:
            await self._hangup.wait()
            async with self.service.reloading():
                await self._reload()

    async def dump_metrics(self) -> None:
        """Write the metrics after each SIGUSR1, until cancelled."""
        await self._started.wait()
        while True:
            await self._user_signal.wait()
            assert self.agent is not None
            self._streams.stderr.write(self.agent.metrics.text())

    async def _start(self, start: Callable[[], Awaitable[None]]) -> None:
        with self._starting:
            await start()
            self._started.set()

    def _end(self, code: int) -> None:
        self.code = code
        self.scope.cancel()

    def _graceful(self, number: int) -> bool:
        config = self._config if self.agent is None else self.agent.config
        if END_SIGNALS[number] == "interrupt":
            return not config.skip_leave_on_interrupt
        return config.leave_on_terminate

    async def _leave(self) -> None:
        if self.agent is None:
            self._end(0)
            return
        await self.service.stopping()
        with trio.move_on_after(GRACE):
            await self.agent.leave()
        # A disk that is slower than that does not make the leave a failure.
        has_left = self.agent.node.phase is Phase.LEFT
        if not has_left:
            _log.error("the leave took longer than %g s", GRACE)
        self._end(0 if has_left else 1)

    async def _reload(self) -> None:
        agent, control = self.agent, self._control
        assert agent is not None
        assert control is not None
        if isinstance(self._streams.writer, LogFile):
            self._streams.writer.reopen()
        self._out.line_best_effort("==> Caught signal: hangup")
        self._out.line_best_effort("==> Reloading configuration...")
        _log.info("Reloading configuration...")
        try:
            # In a thread, because files may be slow, or pipes.
            checked = await run_in_thread(
                partial(check_configuration, self._sources, self._inherited), abandon=True
            )
            config = require_valid(checked, partial(_log.warning, "%s"))
            files = tls_files(config) if control.tls is not None else None
            certificates = await load_tls(files)
            http_files = None if self.http is None else await load_files(config.http)
            later = await agent.reload(config, with_tls=control.tls is not None)
        except (TrioserfError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            for line in str(reason).splitlines():
                _log.error("the configuration stays as it was: %s", line)
            self._out.line_best_effort("==> Failed to reload configs")
        else:
            control.tls = certificates or control.tls
            if self.http is not None and http_files is not None:
                self.http.replace(http_files)
            _log.info("Configuration reloaded")
            if later:
                text = "these changed keys take effect with the next start only: %s"
                _log.warning(text, ", ".join(later))
        await control.reload()
