"""Targets for Prometheus (`http_sd_configs`)."""

import re
from collections.abc import Iterable
from typing import Any

from trioserf.address import format_host_port
from trioserf.serf.member import Member

_PREFIX = "__meta_serf_"


def targets(members: Iterable[Member], port_tag: str) -> list[dict[str, Any]]:
    """Return a group with one target for each member whose tag is a port.

    Bytes of names and tags that are not UTF-8 become question marks: Prometheus accepts no other
    JSON.
    """
    return [
        {
            "targets": [format_host_port(member.address.host, int(port))],
            "labels": {
                f"{_PREFIX}node": _text(member.name),
                f"{_PREFIX}status": member.status,
                f"{_PREFIX}address": member.address.host,
                **{
                    f"{_PREFIX}tag_{_label(tag)}": _text(value)
                    for tag, value in sorted(member.tags.items())
                },
            },
        }
        for member in members
        if _is_port(port := member.tags.get(port_tag, ""))
    ]


def _is_port(text: str) -> bool:
    return bool(re.fullmatch("[0-9]{1,5}", text)) and 1 <= int(text) <= 65_535


def _label(tag: str) -> str:
    return re.sub("[^a-zA-Z0-9_]", "_", tag)


def _text(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
