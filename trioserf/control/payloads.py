"""Payloads in JSON: `payload` if they are UTF-8, else `payload_base64`."""

import binascii
from collections.abc import Mapping
from typing import Any


def with_payload(record: dict[str, Any], payload: bytes) -> dict[str, Any]:
    """Add a payload to a record and return the record."""
    try:
        record["payload"] = payload.decode("utf-8")
    except UnicodeDecodeError:
        record["payload_base64"] = binascii.b2a_base64(payload, newline=False).decode("ascii")
    return record


def payload_of(record: Mapping[str, Any]) -> bytes:
    """Return the payload of a record; empty if it has none.

    Raises:
        ValueError: `payload_base64` is not base64.
    """
    text = record.get("payload")
    if text is not None:
        return str(text).encode()
    return binascii.a2b_base64(record.get("payload_base64", ""), strict_mode=False)
