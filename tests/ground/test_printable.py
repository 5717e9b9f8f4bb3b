"""Control characters in text of other members."""

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioserf.printable import LOGGED_NAME, printable, short_name

CONTROLS = {
    *range(0x20),
    *range(0x7F, 0xA0),
    0x2028,
    0x2029,
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\n\t\r\0", r"\x1b[2J\n\t\r\x00"),
        ("\x7f\x80\x9b", r"\x7f\x80\x9b"),
        ("\u2028\u2029\u202e\u2066", r"\u2028\u2029\u202e\u2066"),
        ("\udc80\udc9f\udca0\udcff", "\\x80\\x9f\udca0\udcff"),
        ("naïve 名前 \\n 🙂", "naïve 名前 \\n 🙂"),
    ],
)
def test_controls_are_escaped_and_other_text_is_unchanged(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_every_control_of_unicode_is_escaped() -> None:
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        is_control = unicodedata.category(char) in ("Cc", "Zl", "Zp") or code in CONTROLS
        if not 0xD800 <= code < 0xE000:
            assert (printable(char) != char) == is_control, hex(code)


@given(st.text())
def test_escaped_text_needs_no_more_escapes(text: str) -> None:
    shown = printable(text)
    assert printable(shown) == shown


def test_kept_controls_remain() -> None:
    assert printable("a\n\tb\x1b", "\n\t") == "a\n\tb\\x1b"


def test_long_names_are_cut() -> None:
    assert short_name("n" * LOGGED_NAME) == "n" * LOGGED_NAME
    assert short_name("n" * 1024) == "n" * (LOGGED_NAME - 1) + "…"
    assert short_name("\x1b" * 16) == "\x1b" * 16
    assert short_name("\x1b" * 17) == ("\\x1b" * 16)[: LOGGED_NAME - 1] + "…"
    assert short_name("🙂" * 24) == "🙂" * 24
    assert short_name("🙂" * 25) == "🙂" * 23 + "…"


@given(st.text())
def test_cut_names_are_short_in_a_log(name: str) -> None:
    shown = printable(short_name(name))
    assert len(shown) <= LOGGED_NAME
    assert len(shown.encode("utf-8", "backslashreplace")) <= 96
