"""The inputs that fuzzing started from and kept are replayed in every run of the tests."""

import pytest

from tests.fuzz import seeds
from tests.fuzz.targets import TARGETS

KNOWN = {target: seeds.inputs(target) for target in TARGETS}


@pytest.mark.parametrize("target", TARGETS)
def test_known_inputs_break_no_guarantee(target: str) -> None:
    assert KNOWN[target]
    for data in KNOWN[target]:
        try:
            TARGETS[target](data)
        except Exception as error:
            error.add_note(f"input: {data.hex()}")
            raise


def test_corpus_has_no_file_without_a_target() -> None:
    assert {path.stem for path in seeds.CORPUS.glob("*.hex")} <= set(TARGETS)
