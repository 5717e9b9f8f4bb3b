"""What Serf's RPC says, as what clients of either protocol get."""

import re
import socket
from collections.abc import Mapping
from typing import Any

from trioserf.control.client.records import LogEntry, MemberInfo
from trioserf.control.errors import ControlError
from trioserf.control.payloads import with_payload

Body = dict[str, Any]

_CODES = (
    ("Authentication required", "auth_required"),
    ("Invalid authentication token", "auth_failed"),
    ("Invalid event filter", "invalid_filter"),
    ("No pending queries", "no_such_query"),
    ("Unsupported command", "unknown_command"),
    ("Unsupported IPC version", "protocol"),
    ("exceeds", "too_large"),
)
"""What Serf says, and the code for it; anything else is a bad request."""
_LOG_LINE = re.compile(r"(\d\S+ \d\S+) \[(\w+)\] ([^:]+): (.*)", re.DOTALL)
_CAUSE = re.compile(r"\* Failed to (?:join|resolve) (\S+): (?:dial \S+ \S+: connect: )?(.+)")


def fault(said: str, body: Body) -> ControlError:
    """Make an error of what Serf says."""
    message = said.strip()
    if "NumNodes" in body:
        return ControlError("key_failed", message, key_fields(body))
    if "Num" in body:
        causes = [{"address": a, "reason": why} for a, why in _CAUSE.findall(said)]
        return ControlError("join_failed", message, {"causes": causes})
    for words, code in _CODES:
        if words in said:
            return ControlError(code, message)
    return ControlError("bad_request", message)


def key_fields(body: Body) -> Body:
    """Give the fields of a `KeyReport`."""
    return {
        "messages": body["Messages"] or {},
        "keys": body["Keys"] or {},
        "primary_keys": {},
        "nodes": body["NumNodes"],
        "responses": body["NumResp"],
        "errors": body["NumErr"],
    }


def member(one: Body) -> MemberInfo:
    """Read a member."""
    return MemberInfo(
        one["Name"],
        _host(one["Addr"]),
        one["Port"],
        one["Tags"] or {},
        one["Status"],
        one["DelegateMin"],
        one["DelegateMax"],
        one["DelegateCur"],
    )


def _host(addr: bytes) -> str:
    if len(addr) == 4:
        return socket.inet_ntoa(addr)
    import ipaddress

    address = ipaddress.ip_address(addr)
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def log_entry(record: Mapping[str, Any]) -> LogEntry:
    """Read a line of the log; one that does not look like Serf's is all message."""
    line = record.get("Log", f"{record.get('count')} lines were lost on the way")
    found = _LOG_LINE.fullmatch(line)
    return LogEntry(*found.groups()) if found else LogEntry("", "", "", line)


def event_record(record: Mapping[str, Any]) -> Body:
    """Show an event as the JSON protocol does, as far as Serf tells it."""
    if "event" in record:
        return dict(record)
    ours: Body = {"event": record["Event"]}
    if "Members" in record:
        ours["members"] = [member_record(member(one)) for one in record["Members"] or ()]
        return ours
    names: tuple[tuple[str, str], ...] = (
        ("ID", "id"), ("LTime", "ltime"), ("Name", "name"),
    )  # fmt: skip
    ours |= {name: record[theirs] for theirs, name in names if theirs in record}
    if "Payload" in record:
        with_payload(ours, record["Payload"] or b"")
    if "Coalesce" in record:
        ours["coalesce"] = record["Coalesce"]
    return ours


def member_record(one: MemberInfo) -> Body:
    """Show a member as the JSON protocol does."""
    return {
        "name": one.name,
        "addr": one.addr,
        "port": one.port,
        "tags": dict(one.tags),
        "status": one.status,
        "protocol": {
            "min": one.protocol_min,
            "max": one.protocol_max,
            "version": one.protocol_version,
        },
    }
