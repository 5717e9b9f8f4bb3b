"""`join`, `leave`, `force-leave`, `tags`: what changes the cluster."""

from typing import Annotated

from trioserf.cli.calling import connect, tags_of
from trioserf.cli.flags import Option, OurFormat, RpcAddr, RpcAuth
from trioserf.cli.output import Failure, Misuse, Out, check_format, failing, reason_of
from trioserf.control.address import DEFAULT_ADDRESS
from trioserf.control.errors import ControlError

_FORMAT = "Invalid format: {}"


def join(
    out: Out,
    words: list[str],
    *,
    replay: Annotated[bool, Option("replay", "Take in user events from before the join.")] = False,
    output_format: OurFormat = "text",
    rpc_addr: RpcAddr = DEFAULT_ADDRESS,
    rpc_auth: RpcAuth = "",
) -> int:
    """Make a running agent join the cluster of those who listen at the addresses.

    One that answers is enough.
    """
    if not words:
        raise Misuse("At least one address to join must be specified.")
    with connect(rpc_addr, rpc_auth) as session:
        check_format(output_format, _FORMAT)
        try:
            number = session.join(words, replay=replay)
        except ControlError as error:
            reason = reason_of(error)
            # Serf's list of causes ends in a blank line, which the client does not carry.
            reason += "\n\n" if "occurred:\n" in reason else ""
            text = f"Error joining the cluster: {reason}"
            raise Failure(text, error.code, error.details) from error
    out.line(f"Successfully joined cluster by contacting {number} nodes.")
    out.record({"joined": number})
    return 0


def leave(
    out: Out,
    words: list[str],  # noqa: ARG001 - Serf takes them and ignores them
    *,
    output_format: OurFormat = "text",
    rpc_addr: RpcAddr = DEFAULT_ADDRESS,
    rpc_auth: RpcAuth = "",
) -> int:
    """Make the agent leave the cluster, in good order, and end."""
    with connect(rpc_addr, rpc_auth) as session:
        check_format(output_format, _FORMAT)
        with failing("Error leaving"):
            session.leave()
    out.line("Graceful leave complete")
    out.record({"left": True})
    return 0


def force_leave(
    out: Out,
    words: list[str],
    *,
    prune: Annotated[bool, Option("prune", "Forget the member altogether.")] = False,
    output_format: OurFormat = "text",
    rpc_addr: RpcAddr = DEFAULT_ADDRESS,
    rpc_auth: RpcAuth = "",
) -> int:
    """Declare that a failed member has left, so that nobody tries to reach it any more.

    A member that is in fact alive will come back by itself.
    """
    if len(words) != 1:
        raise Misuse("A node name must be specified to force leave.")
    with connect(rpc_addr, rpc_auth) as session:
        check_format(output_format, _FORMAT)
        with failing("Error force leaving"):
            session.force_leave(words[0], prune=prune)
    out.record({"name": words[0], "prune": prune})
    return 0


def tags(
    out: Out,
    words: list[str],  # noqa: ARG001 - Serf takes them and ignores them
    *,
    set_pairs: Annotated[
        list[str], Option("set", "Create a tag or change its value. Repeatable.", "KEY=VALUE")
    ] = [],  # noqa: B006 - only read
    delete: Annotated[
        list[str], Option("delete", "Remove a tag, if it is there. Repeatable.", "KEY")
    ] = [],  # noqa: B006 - only read
    output_format: OurFormat = "text",
    rpc_addr: RpcAddr = DEFAULT_ADDRESS,
    rpc_auth: RpcAuth = "",
) -> int:
    """Change the tags of a running agent."""
    if not set_pairs and not delete:
        raise Misuse("")
    with connect(rpc_addr, rpc_auth) as session:
        check_format(output_format, _FORMAT)
        wanted = tags_of(set_pairs)
        with failing("Error setting tags"):
            session.tags(wanted, delete)
    out.line("Successfully updated agent tags")
    out.record({"set": wanted, "delete": delete})
    return 0
