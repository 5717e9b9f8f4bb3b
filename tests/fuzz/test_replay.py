"""What fuzzing started from and found is played in every run of the tests."""

import pytest

from tests.fuzz import seeds
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("target", TARGETS)
def test_every_known_input_keeps_the_promises(target: str) -> None:
    known = seeds.inputs(target)
    assert known
    for data in known:
        try:
            TARGETS[target](data)
        except Exception as error:
            raise AssertionError(f"scripts/fuzz {target}: {data.hex()}") from error


def test_the_corpus_has_no_file_without_a_target() -> None:
    assert {path.stem for path in seeds.CORPUS.glob("*.hex")} <= set(TARGETS)
