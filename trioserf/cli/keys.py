"""`keygen` and `keys`: the keys with which the cluster seals its gossip."""

import binascii
import os
from typing import Annotated

from trioserf.cli.calling import connect, connect_any
from trioserf.cli.flags import Option, OurFormat, RpcAddr, RpcAuth
from trioserf.cli.key_steps import carry_out, keys_text, naming_laggards, report_record
from trioserf.cli.output import Failure, Misuse, Out, check_format
from trioserf.cli.rotating import rotate
from trioserf.control.address import DEFAULT_ADDRESS
from trioserf.control.client.connect import Action

KEY_BYTES = 32


def new_key() -> str:
    """Make a key for AES-256, in base64."""
    return binascii.b2a_base64(os.urandom(KEY_BYTES), newline=False).decode("ascii")


def keygen(
    out: Out,
    words: list[str],  # noqa: ARG001 - Serf takes them and ignores them
    *,
    output_format: OurFormat = "text",
) -> int:
    """Make a new encryption key, as "trioserf agent -encrypt" and "trioserf keys" want it."""
    check_format(output_format, "Invalid format: {}")
    key = new_key()
    out.line(key)
    out.record({"key": key})
    return 0


def keys(
    out: Out,
    words: list[str],
    *,
    install: Annotated[
        str,
        Option("install", "Add a key to the ring of every member, for opening messages.", "KEY"),
    ] = "",
    use: Annotated[
        str,
        Option(
            "use", "Make every member seal its messages with this key, installed before.", "KEY"
        ),
    ] = "",
    remove: Annotated[
        str, Option("remove", "Drop a key from every ring; it may not be the one in use.", "KEY")
    ] = "",
    list_keys: Annotated[
        bool, Option("list", "Show the keys of the cluster, and how many members hold each.")
    ] = False,
    output_format: OurFormat = "text",
    rpc_addr: RpcAddr = DEFAULT_ADDRESS,
    rpc_auth: RpcAuth = "",
) -> int:
    """Change or list the encryption keys, on every member of the cluster.

    The exit code is 0 if every member agreed. "trioserf keys rotate" does what an operator would
    do by hand: it makes a key, installs it, uses it and removes the others. It stops at the first
    step that not every member has taken; the cluster then still understands itself, and another
    "trioserf keys rotate" takes it from there.
    """
    wanted: dict[Action, str] = {"install": install, "use": use, "remove": remove}
    actions: list[Action] = [action for action, key in wanted.items() if key]
    actions += ["list"] if list_keys else []
    if words == ["rotate"] and not actions:
        with connect_any(rpc_addr, rpc_auth) as session:
            check_format(output_format, "Invalid format: {}")
            return rotate(out, session, new_key())
    if not actions:
        raise Misuse(f"Unknown words: {' '.join(words)}" if words else "")
    if len(actions) > 1:
        text = "Only one of -install, -use, -remove, or -list allowed"
        raise Failure(text, "bad_request")
    action = actions[0]
    # JSON tells the primary keys, where the agent knows it; texts of errors are those of Serf.
    open_session = connect_any if output_format == "json" else connect
    with open_session(rpc_addr, rpc_auth) as session:
        check_format(output_format, "Invalid format: {}")
        with naming_laggards(session, out.json):
            report = carry_out(out, session, action, wanted.get(action))
    if action == "list":
        out.line()
        out.line(keys_text(report))
    out.record(report_record(report))
    return 0
