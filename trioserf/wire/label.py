"""Labels: a name before packets and streams that separates clusters (wire/README.md, § Labels).

The label is not secret, but encryption authenticates it with the payload.
"""

from typing import Final

from trioserf.wire.errors import WireError
from trioserf.wire.swim_codec import LABEL

MAX_LABEL: Final = 255
"""Maximum length of a label, in bytes."""


def label_header(label: bytes) -> bytes:
    """Return the header of labelled packets and streams; empty for an empty label.

    Raises:
        ValueError: the label is longer than 255 bytes.
    """
    if len(label) > MAX_LABEL:
        raise ValueError(f"a label has at most {MAX_LABEL} bytes, this one has {len(label)}")
    return bytes((LABEL, len(label))) + label if label else b""


def strip_label(data: bytes, label: bytes) -> bytes:
    """Return a packet without its label header.

    Args:
        data: the packet.
        label: the label that the packet must have; empty for none.

    Raises:
        WireError: `label` for a missing, unexpected or different label; `truncated`.
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
    """Return the error for a label `found` in place of the `expected` one."""
    expectation = show(expected) if expected else "none"
    return WireError("label", f"label {show(found)}, expected {expectation}")


def show(label: bytes) -> str:
    """Return a label quoted for an error text."""
    return repr(label.decode("utf-8", "backslashreplace"))
