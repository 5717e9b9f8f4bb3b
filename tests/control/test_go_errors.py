"""Error texts of Go's library; texts of base64 are recorded, those of joins are of Serf 0.10."""

import pytest

from trioserf.control.server.go_errors import go_base64_error, go_join_error


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("x", 0), ("xx", 0), ("xxx", 0), ("ab=c", 2), ("abc=d", 4), ("a=bc", 1), ("ab==x", 4),
        ("ab=", 3), ("a*bc", 1), ("abcd*", 4), ("abcde", 4), ("ab-_", 2), ("=", 0),
        ("abcdef=", 7), ("üx", 0), ("abcü", 3),
    ],
)  # fmt: skip
def test_invalid_base64_is_reported_with_its_byte(text: str, position: int) -> None:
    assert go_base64_error(text) == f"illegal base64 data at input byte {position}"


@pytest.mark.parametrize("text", ["", "abcd", "ab==", "abc=", "ab\\n==", "abcdefg=", "+/+/"])
def test_valid_base64_has_no_error(text: str) -> None:
    assert go_base64_error(text.replace("\\n", "\n")) is None


@pytest.mark.parametrize(
    ("address", "reason", "text"),
    [
        (
            "10.0.0.1:7946",
            "Connection refused",
            "failed to join 10.0.0.1:7946: dial tcp 10.0.0.1:7946: connect: connection refused",
        ),
        (
            "[::1]:99",
            "[Errno 111] Error connecting: Connection refused",
            "failed to join [::1]:99: dial tcp [::1]:99: connect: connection refused",
        ),
        (
            "db",
            "unknown host 'db': Name or service not known",
            "failed to resolve db: lookup db: no such host",
        ),
        (
            "db:99",
            "unknown host 'db': Name or service not known",
            "failed to resolve db:99: lookup db: no such host",
        ),
        (
            "web/db:99",
            "unknown host 'db': Name or service not known",
            "failed to resolve web/db:99: lookup db: no such host",
        ),
        (
            "[a]b:c]:99",
            "unknown host 'a]b:c': Name or service not known",
            "failed to resolve [a]b:c]:99: lookup [a]b:c]:99: no such host",
        ),
        (
            "a: b:x",
            "join address 'a: b:x': expected a host name or an IP address",
            "failed to resolve a: b:x: expected a host name or an IP address",
        ),
        ("10.0.0.1:1", "it speaks gibberish", "failed to join 10.0.0.1:1: it speaks gibberish"),
    ],
)
def test_join_error_has_the_text_of_go(address: str, reason: str, text: str) -> None:
    assert go_join_error(address, reason) == text
