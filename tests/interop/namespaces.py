"""Two network namespaces with a link between them, as two hosts."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import attrs
import pytest


class NoNamespaces(Exception):
    """This machine does not permit network namespaces."""


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
    done = subprocess.run(["ip", *words], capture_output=True, check=False, timeout=30)
    if done.returncode:
        raise NoNamespaces(f"ip {' '.join(words)}: {done.stderr.decode().strip()}")
