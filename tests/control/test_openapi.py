"""The OpenAPI document: Schemathesis requests its paths; events match their schema."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import trio

from tests.control.http_agents import HOST, event_stream, http_agent

assert sys.platform != "win32"

PROGRAM = Path(sys.executable).with_name("schemathesis")


@pytest.mark.slow
async def test_paths_behave_as_documented(tmp_path: Path) -> None:
    token = tmp_path / "token"
    await trio.Path(token).write_text("s3cret")
    token.chmod(0o600)
    async with http_agent(tags={"port": "80"}, http_token_file=str(token)) as served:
        url = f"http://{HOST}:{served.port}/openapi.json"
        done = await trio.run_process(
            [
                *(PROGRAM, "run", url, "--checks", "all", "--max-examples", "8", "--seed", "18"),
                *("--header", "Authorization: Bearer s3cret", "--no-color"),
                # A stream does not end, and no schema describes the syntax of RE2.
                *("--exclude-path", "/v1/events"),
                *("--exclude-checks", "positive_data_acceptance"),
            ],
            capture_stdout=True, stderr=subprocess.STDOUT, check=False, cwd=tmp_path,
        )  # fmt: skip
        text = done.stdout.decode()
        assert done.returncode == 0, text
        assert "6 selected / 7 total" in text  # it leaves out the document itself
        assert await served.works()
        assert "[ERR]" not in served.log.getvalue()


async def test_document_is_valid_and_names_all_paths() -> None:
    async with http_agent() as served:
        document = (await served.get("/openapi.json")).json
        routes: Any = served.server.api.router().routes
        paths = {route.path for route in routes}
    assert paths - {"/"} == set(document["paths"])
    assert "security" not in document
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate(schema)


async def test_events_match_their_schema() -> None:
    async with http_agent() as served:
        document = (await served.get("/openapi.json")).json
        validator = jsonschema_rs.validator_for(
            {"$ref": "#/components/schemas/Event", "components": document["components"]}
        )
        found: list[dict[str, Any]] = []
        async with event_stream(served, "?type=user,query,member-update", "1abc-1") as events:
            node = served.agent.node
            await node.user_event("text", b"a")
            await node.user_event("bytes", b"\xff")
            await node.set_tags({"a": "b"})
            async with node.query("load", b"q") as results:
                async for _ in results:
                    pass
            found = [record for _, _, record in await events.events(5)]
    for record in found:
        validator.validate(record)
    assert {record["event"] for record in found} == {"dropped", "user", "member-update", "query"}
