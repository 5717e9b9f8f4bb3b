"""Network namespaces as hosts: two with a link between them, or several around a router."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import attrs
import pytest

from trioserf.operating_system.users import user_id

_INSIDE: Final = "TRIOSERF_OWN_NAMESPACES"
"""Set when a script runs in namespaces of its own."""
_UNSHARE: Final = ("--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


class NoNamespaces(Exception):
    """This machine does not permit network namespaces."""


def enter_own(program: str) -> None:
    """Run this script again, in namespaces of its own that end with it; return in these.

    Args:
        program: whose agents will run: `trioserf`, `serf` or `mixed`.

    Raises:
        NoNamespaces: with the reason.
    """
    if _INSIDE in os.environ:
        return
    if user_id() != 0:
        raise NoNamespaces("needs root, for namespaces of its own")
    for needed in ("unshare", "ip", *(() if program == "trioserf" else ("serf",))):
        if shutil.which(needed) is None:
            raise NoNamespaces(f"needs {needed}: apt-get install util-linux iproute2 serf")
    inside = ["unshare", *_UNSHARE, sys.executable, *sys.argv]
    os.execvpe(inside[0], inside, os.environ | {_INSIDE: "1"})


def agent_names(program: str, count: int) -> list[str]:
    """Return the names of agents; every second one of a mixed cluster is Serf's."""
    kinds = {"trioserf": ("py",), "serf": ("go",), "mixed": ("py", "go")}[program]
    return [f"{kinds[number % len(kinds)]}-{number:02}" for number in range(count)]


@attrs.frozen
class Host:
    """One namespace, with an address of each family on `v0`."""

    name: str
    v4: str
    v6: str

    def inside(self, *words: str) -> list[str]:
        """Return the command line that runs another one in this namespace."""
        return ["ip", "netns", "exec", self.name, *words]


@contextmanager
def two_hosts_or_skip(net: str = "10.77.0") -> Iterator[tuple[Host, Host]]:
    """Make two hosts; skip the test if that is not possible."""
    try:
        with two_hosts(net) as both:
            yield both
    except NoNamespaces as error:
        pytest.skip(f"NETWORK NAMESPACES CANNOT BE MADE: {error}")


@contextmanager
def two_hosts(net: str = "10.77.0") -> Iterator[tuple[Host, Host]]:
    """Make two namespaces with a link, for unicast and multicast, while the block runs.

    Args:
        net: the first three numbers of their IPv4 addresses, which end in 1 and 2.

    Raises:
        NoNamespaces: with the reason.
    """
    if shutil.which("ip") is None:
        raise NoNamespaces("there is no ip command; install iproute2")
    hosts = [Host(f"trioserf-{os.getpid()}-{n}", f"{net}.{n}", f"fd77::{n}") for n in (1, 2)]
    with ExitStack() as stack:
        for host in hosts:
            _ip("netns", "add", host.name)
            stack.callback(_ip, "netns", "delete", host.name)
        one, two = hosts
        link = ["link", "add", "v0", "type", "veth", "peer", "name", "v0", "netns", two.name]
        _ip("-n", one.name, *link)
        for host in hosts:
            _set_up(host)
        yield one, two


_UNUSED = "02:00:00:00:00:99"
"""An Ethernet address without a host."""


def cut(one: Host, two: Host) -> None:
    """Drop all packets between two hosts without an error; within each host nothing changes."""
    for host, other in ((one, two), (two, one)):
        neighbour = ["neigh", "replace", other.v4, "lladdr", _UNUSED, "dev", "v0"]
        _ip("-n", host.name, *neighbour, "nud", "permanent")


def restore(one: Host, two: Host) -> None:
    """Undo `cut`."""
    for host, other in ((one, two), (two, one)):
        _ip("-n", host.name, "neigh", "delete", other.v4, "dev", "v0")


class Router:
    """Hosts that reach each other only through this namespace, which can disturb their traffic.

    The caller's namespaces of network and mounts must be its own, and end with it: nothing is
    removed. Traffic between the hosts and the caller itself is neither cut nor lost.

    Attributes:
        loss: the program that drops packets at random: `netem`, `nft`, or nothing if this
            machine has neither.
        delay: what delays packets: `netem`, or `tbf` (a narrow link), or nothing.
    """

    def __init__(self, names: Sequence[str], net: str = "10.78") -> None:
        """Make a host for each name; `net`: the first two numbers of their addresses.

        Raises:
            NoNamespaces: with the reason.
        """
        self._numbers = {name: number for number, name in enumerate(names, 1)}
        self._net = net
        _ip("link", "set", "lo", "up")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        namespaces = Path("/run/netns")
        namespaces.mkdir(exist_ok=True)
        _run("mount", "-t", "tmpfs", "tmpfs", str(namespaces))
        for name, number in self._numbers.items():
            gateway = f"{net}.{number}.1"
            _ip("netns", "add", name)
            _ip(
                "link",
                "add",
                self._link(name),
                "type",
                "veth",
                "peer",
                "name",
                "v0",
                "netns",
                name,
            )
            _ip("addr", "add", f"{gateway}/24", "dev", self._link(name))
            _ip("link", "set", self._link(name), "up")
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", "v0", "up")
            _ip("-n", name, "addr", "add", f"{self.address(name)}/24", "dev", "v0")
            _ip("-n", name, "route", "add", "default", "via", gateway)
        netem, tbf = self._try_delay(_NETEM), self._try_delay(_NARROW)
        self.loss = "netem" if netem else "nft" if _succeeds("nft", _NFT_TABLE) else ""
        self.delay = "netem" if netem else "tbf" if tbf else ""

    def address(self, name: str) -> str:
        """Return the address of a host."""
        return f"{self._net}.{self._numbers[name]}.2"

    def add_address(self, address: str) -> None:
        """Add an address of the caller's own, which all hosts can reach."""
        _ip("addr", "add", f"{address}/32", "dev", "lo")

    def cut(self, name: str) -> None:
        """Drop all packets between a host and the others without an error."""
        self._change_rules("add", name)

    def restore(self, name: str) -> None:
        """Undo `cut`."""
        self._change_rules("delete", name)

    def disturb(self, percent: int) -> None:
        """Lose some of all packets, and delay them: by 20 to 80 ms, or in a link of 200 kbit/s."""
        for name in self._numbers:
            if self.delay == "netem":
                self._qdisc("add", name, *_NETEM, "loss", f"{percent}%")
            elif self.delay == "tbf":
                self._qdisc("add", name, *_NARROW)
        if self.loss == "nft":
            _run("nft", f"add rule ip chaos forward {_random_drop(percent)}")

    def lose(self, percent: int) -> None:
        """Lose some of all packets between hosts, without a delay.

        nft does not touch the traffic of the caller, netem that to a host.
        """
        if _succeeds("nft", _NFT_TABLE):
            _run("nft", f"add rule ip chaos forward {_random_drop(percent)}")
            return
        for name in self._numbers:
            self._qdisc("add", name, "netem", "loss", f"{percent}%")

    def calm(self) -> None:
        """Undo `disturb`."""
        if self.delay:
            for name in self._numbers:
                self._qdisc("delete", name)
        if self.loss == "nft":
            _run("nft", "flush chain ip chaos forward")

    def _link(self, name: str) -> str:
        return f"host{self._numbers[name]}"

    def _change_rules(self, action: str, name: str) -> None:
        host = self.address(name)
        _ip("rule", action, "from", host, "blackhole")
        for other in self._numbers.keys() - {name}:
            _ip("rule", action, "to", host, "iif", self._link(other), "blackhole")

    def _qdisc(self, action: str, name: str, *kind: str) -> None:
        _run("tc", "qdisc", action, "dev", self._link(name), "root", *kind)

    def _try_delay(self, kind: Sequence[str]) -> bool:
        """Return whether this kernel has a queueing discipline."""
        name = next(iter(self._numbers))
        try:
            self._qdisc("add", name, *kind)
        except NoNamespaces:
            return False
        self._qdisc("delete", name)
        return True


_NETEM: Final = ("netem", "delay", "50ms", "30ms")
_NARROW: Final = ("tbf", "rate", "200kbit", "burst", "2kb", "latency", "300ms")
_NFT_TABLE: Final = (
    "table ip chaos {\n chain forward {\n type filter hook forward priority 0;\n }\n}"
)


def _random_drop(percent: int) -> str:
    return f"numgen random mod 100 < {percent} drop"


def _set_up(host: Host) -> None:
    for words in (
        ["link", "set", "lo", "up"],
        ["link", "set", "v0", "up"],
        ["addr", "add", f"{host.v4}/24", "dev", "v0"],
        ["addr", "add", f"{host.v6}/64", "dev", "v0", "nodad"],
        ["route", "add", "224.0.0.0/4", "dev", "v0"],
    ):
        _ip("-n", host.name, *words)


def _ip(*words: str) -> None:
    _run("ip", *words)


def _run(*words: str) -> None:
    try:
        done = subprocess.run(words, capture_output=True, check=False, timeout=30)
    except FileNotFoundError as error:
        raise NoNamespaces(f"{words[0]} is not installed") from error
    if done.returncode:
        raise NoNamespaces(f"{' '.join(words)}: {done.stderr.decode().strip()}")


def _succeeds(*words: str) -> bool:
    try:
        _run(*words)
    except NoNamespaces:
        return False
    return True
