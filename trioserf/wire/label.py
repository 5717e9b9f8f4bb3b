"""Labels: a name in front of packets and streams that keeps clusters apart (spec: labels).

Byte 244, the label's length (1 to 255), the label. Not a secret; but with encryption the label is
bound to the payload. Whoever has no label refuses labelled traffic, and the reverse.
"""

from typing import Final

from trioserf.wire.errors import WireError
from trioserf.wire.swim_codec import LABEL

MAX_LABEL: Final = 255
"""Longest label, in bytes."""


def label_header(label: bytes) -> bytes:
    """Give what stands in front of a labelled packet or stream; nothing for an empty label.

    Raises:
        ValueError: the label is longer than 255 bytes.
    """
    if len(label) > MAX_LABEL:
        raise ValueError(f"a label has at most {MAX_LABEL} bytes, this one has {len(label)}")
    return bytes((LABEL, len(label))) + label if label else b""


def strip_label(data: bytes, label: bytes) -> bytes:
    """Take the label header off a packet.

    Args:
        data: the packet.
        label: the label it must have; empty for none.

    Raises:
        WireError: `label`, it has another one, none or one too many; `truncated`.
    """
    if not data.startswith(b"\xf4"):
        if label:
            raise WireError("label", f"no label, expected {show(label)}")
        return data
    length = data[1] if len(data) > 1 else 0
    if length == 0 or len(data) < 2 + length:
        raise WireError("truncated", "label header: expected a length from 1 to 255 and a label")
    found = data[2 : 2 + length]
    if found != label:
        raise mismatch(found, label)
    return data[2 + length :]


def mismatch(found: bytes, expected: bytes) -> WireError:
    """Say that `found` is not the label that was `expected`."""
    wanted = show(expected) if expected else "none"
    return WireError("label", f"label {show(found)}, expected {wanted}")


def show(label: bytes) -> str:
    """Quote a label for an error."""
    return repr(label.decode("utf-8", "backslashreplace"))
