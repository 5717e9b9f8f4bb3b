"""Calls of the library outside of Trio end with an error that says what to do."""

import asyncio
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import trio

import trioserf

GUIDE = (Path(trioserf.__file__).parent / "node/README.md").read_text()


def in_asyncio(call: Callable[[], object]) -> None:
    async def main() -> None:
        call()

    asyncio.run(main())


def check_guide(text: str) -> None:
    """Check that the section that an error names exists."""
    section = re.search(r"\(trioserf/node/README\.md, § (.*)\)$", text)
    assert section is not None
    assert f"\n### {section[1]}\n" in GUIDE


@pytest.mark.parametrize("function", ["open_node", "connect"])
def test_call_without_event_loop_names_the_ways(function: str) -> None:
    text = rf"^{function}\(\) was called outside of a Trio task; "
    with pytest.raises(RuntimeError, match=text) as caught:
        getattr(trioserf, function)()
    assert ("trio.run()" if function == "open_node" else "connect_any()") in str(caught.value)
    if function == "open_node":
        check_guide(str(caught.value))


@pytest.mark.parametrize("function", ["open_node", "connect"])
def test_call_in_asyncio_names_the_ways(function: str) -> None:
    text = rf"^{function}\(\) was called in an asyncio program; "
    with pytest.raises(RuntimeError, match=text) as caught:
        in_asyncio(getattr(trioserf, function))
    if function == "open_node":
        for way in ("trio.lowlevel.start_guest_run()", "trio.run()"):
            assert way in str(caught.value)
        check_guide(str(caught.value))
    else:
        module = str(caught.value).rpartition(" ")[2]
        assert callable(import_module(module).connect)


async def test_call_in_a_thread_of_trio_is_outside_of_a_task() -> None:
    with pytest.raises(RuntimeError, match="outside of a Trio task"):
        await trio.to_thread.run_sync(trioserf.open_node)


async def test_call_in_a_trio_task_is_accepted() -> None:
    trioserf.open_node(trioserf.NodeConfig(name="us"))
    trioserf.connect("127.0.0.1:7373")
