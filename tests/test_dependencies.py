"""The declared dependencies, and the locked versions of all of them (`make lock`)."""

import re
import tomllib
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parent.parent
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS: Final = PROJECT["optional-dependencies"]
LOCKS: Final = {
    "requirements.txt": [*PROJECT["dependencies"], *EXTRAS["dev"]],
    "audit.txt": [
        line.partition(" #")[0]
        for line in (ROOT / ".ci" / "audit.in").read_text("utf-8").splitlines()
        if not line.startswith("#")
    ],
}
"""The requirements of each lock."""


def pins(lock: str) -> list[tuple[Requirement, int]]:
    """Return each pin of a lock with its number of hashes."""
    text = (ROOT / ".ci" / lock).read_text("utf-8")
    entries = re.sub(r"\\\n", "", re.sub(r"^ *#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    hashes = re.compile(r" +--hash=sha256:[0-9a-f]{64}(?= |$)")
    return [(Requirement(hashes.sub("", entry)), len(hashes.findall(entry))) for entry in entries]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_is_one_version_with_hashes(lock: str) -> None:
    for pin, hashes in pins(lock):
        [specifier] = pin.specifier
        assert specifier.operator == "==", pin
        assert hashes, pin


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_matches_requirements(lock: str) -> None:
    locked: dict[str, list[str]] = {}
    for pin, _ in pins(lock):
        [specifier] = pin.specifier
        locked.setdefault(canonicalize_name(pin.name), []).append(specifier.version)
    for text in LOCKS[lock]:
        requirement = Requirement(text)
        versions = locked.get(canonicalize_name(requirement.name), [])
        assert versions, f"{text}: not locked; run: make lock"
        for version in versions:
            assert version in requirement.specifier, f"{text}: {version}; run: make lock"


def test_every_requirement_has_a_lowest_version() -> None:
    texts = [*PROJECT["dependencies"], *(text for texts in EXTRAS.values() for text in texts)]
    for text in texts:
        if text.startswith("trioserf["):  # another extra
            continue
        operators = {specifier.operator for specifier in Requirement(text).specifier}
        assert ">=" in operators, text


@pytest.mark.parametrize("extra", ["mdns", "srv", "http", "plot"])
def test_tests_use_the_versions_of_the_extras(extra: str) -> None:
    assert set(EXTRAS[extra]) <= set(EXTRAS["dev"])
