"""The inputs that fuzzing started from and kept are replayed in every run of the tests."""

import pytest

from tests.fuzz import seeds
from tests.fuzz.targets import TARGETS

KNOWN = {target: seeds.inputs(target) for target in TARGETS}


@pytest.mark.parametrize(
    ("target", "data"),
    [
        pytest.param(target, data, id=f"{target}-{number}")
        for target, known in KNOWN.items()
        for number, data in enumerate(known)
    ],
)
def test_known_input_breaks_no_guarantee(target: str, data: bytes) -> None:
    TARGETS[target](data)


@pytest.mark.parametrize("target", TARGETS)
def test_target_has_known_inputs(target: str) -> None:
    assert KNOWN[target]


def test_corpus_has_no_file_without_a_target() -> None:
    assert {path.stem for path in seeds.CORPUS.glob("*.hex")} <= set(TARGETS)
