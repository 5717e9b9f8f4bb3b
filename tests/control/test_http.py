"""HTTP of a real agent: health, members, events, targets, tokens, TLS and the checks of hosts."""

import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.control.certificates import new_authority
from tests.control.http_agents import HOST, HttpAgent, http_agent
from trioserf.agent import health_checks
from trioserf.agent.config_sources import Sources
from trioserf.agent.http_options import HttpOptions, split_http_address
from trioserf.control.server.config_check import check_configuration
from trioserf.control.server.http_api import bind_http
from trioserf.control.server.http_api.binding import HttpFiles, load_files, read_token
from trioserf.control.server.http_api.hosts import HostNames, is_loopback
from trioserf.errors import AddressError, ConfigError

assert sys.platform != "win32"


@pytest.fixture
async def served() -> AsyncIterator[HttpAgent]:
    tags = {"role": "web", "metrics": "9100", "a-b": "x"}
    async with http_agent(tags=tags, http_hosts=["Lb.Example"]) as found:
        yield found


# --- health ---


async def test_agent_without_seeds_is_healthy_and_ready(served: HttpAgent) -> None:
    for path, text in (("/-/healthy", b"healthy\n"), ("/-/ready", b"ready\n")):
        answer = await served.get(path)
        assert (answer.status, answer.body) == (200, text)


async def test_agent_is_ready_after_a_join() -> None:
    async with (
        http_agent(node_name="seed") as seed,
        http_agent(start_join=[str(seed.agent.node.bound)]) as found,
    ):
        status, code, text = (await found.get("/-/ready")).error
        assert (status, code) == (503, "not_ready")
        assert text == "none of the addresses in start_join and retry_join was joined yet"
        await found.agent.join(found.agent.config.start_join)
        assert (await found.get("/-/ready")).status == 200
        assert found.agent.node.push_pull_at is not None


async def test_agent_that_has_left_is_healthy_but_not_ready(served: HttpAgent) -> None:
    await served.agent.leave()
    assert (await served.get("/-/ready")).error == (
        503,
        "not_ready",
        "the agent has left the cluster",
    )
    assert await served.works()


async def test_blocked_owner_is_unhealthy(
    served: HttpAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_checks, "OWNER_TIMEOUT", 0.05)
    owner = served.agent.node._owner
    monkeypatch.setattr(owner, "_to_inbox", trio.open_memory_channel[Any](0)[0])
    status, code, text = (await served.get("/-/healthy")).error
    assert (status, code) == (503, "unhealthy")
    assert text.startswith("the owner of the node's state did not answer within")
    assert (await served.agent.health.judge()).reasons == (text,)
    monkeypatch.undo()


# --- members, info, targets ---


async def test_members_are_filtered_as_on_the_control_socket(served: HttpAgent) -> None:
    (member,) = (await served.get("/v1/members")).json["members"]
    assert (member["name"], member["status"], member["tags"]["role"]) == ("a", "alive", "web")
    for query, count in (
        ("name=a", 1), ("name=b", 0), ("status=alive|left", 1), ("status=failed", 0),
        ("tag=role=w.*", 1), ("tag=role=w", 0), ("tag=role=web&tag=metrics=9.*", 1),
        ("tag=a-b=x&name=a&status=alive", 1),
    ):  # fmt: skip
        answer = await served.get(f"/v1/members?{query}")
        assert len(answer.json["members"]) == count, query


@pytest.mark.parametrize(
    ("path", "code", "text"),
    [
        ("/v1/members?name=(", "invalid_filter", "name: '^($' is not a valid regular"),
        ("/v1/members?tag=role=(", "invalid_filter", "tags.role: '^($' is not a valid regular"),
        ("/v1/members?tag=role", "bad_request", "tag: expected NAME=REGEX"),
        ("/v1/members?tag=a=1&tag=a=2", "bad_request", "tag: expected NAME=REGEX, once"),
        ("/v1/members?name=a&name=b", "bad_request", "name: expected once"),
        ("/v1/members?who=a", "bad_request", "who: unknown parameter (known: name, status, tag)"),
        ("/v1/info?x=1", "bad_request", "x: unknown parameter (there are none)"),
        ("/-/healthy?x=1", "bad_request", "x: unknown parameter (there are none)"),
        ("/v1/sd", "bad_request", "port_tag: required, but missing"),
        ("/v1/events?type=foo", "invalid_filter", "'foo' is not a valid event filter"),
        ("/nowhere", "not_found", "no such path; /openapi.json lists all paths"),
        ("/metrics/", "not_found", "no such path"),
        ("/%ff%00/..", "not_found", "no such path"),
    ],
)
async def test_invalid_request_is_one_line_of_json(path: str, code: str, text: str) -> None:
    async with http_agent() as served:
        answer = await served.get(path)
        status, found, message = answer.error
        assert (status, found) == (404 if code == "not_found" else 400, code)
        assert message.startswith(text)
        assert answer.body.count(b"\n") == 1


async def test_info_has_the_groups_of_the_command(served: HttpAgent) -> None:
    found = (await served.get("/v1/info")).json
    assert found["agent"]["name"] == "a"
    assert found["tags"] == {"role": "web", "metrics": "9100", "a-b": "x"}


async def test_targets_are_members_with_a_port(served: HttpAgent) -> None:
    answer = await served.get("/v1/sd?port_tag=metrics")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json == [
        {
            "targets": [f"{HOST}:9100"],
            "labels": {
                "__meta_serf_node": "a", "__meta_serf_status": "alive",
                "__meta_serf_address": HOST, "__meta_serf_tag_a_b": "x",
                "__meta_serf_tag_metrics": "9100", "__meta_serf_tag_role": "web",
            },
        }
    ]  # fmt: skip
    for query in ("port_tag=role", "port_tag=none", "port_tag=metrics&tag=role=db"):
        assert (await served.get(f"/v1/sd?{query}")).json == []


async def test_tag_that_is_not_utf8_is_served() -> None:
    async with http_agent(tags={"x": "\udcff", "port": "1"}) as served:
        (member,) = (await served.get("/v1/members")).json["members"]
        assert member["tags"]["x"] == "\udcff"
        (group,) = (await served.get("/v1/sd?port_tag=port")).json
        assert group["labels"]["__meta_serf_tag_x"] == "?"


# --- methods, hosts, tokens, TLS ---


async def test_only_get_and_head_are_served(served: HttpAgent) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        answer = await served.get("/v1/members", method=method)
        assert answer.error == (405, "method_not_allowed", "only GET and HEAD are served")
        assert answer.headers["allow"] == "GET, HEAD"
    for path in ("/metrics", "/v1/members", "/v1/events", "/-/ready", "/openapi.json"):
        answer = await served.get(path, method="HEAD")
        assert (answer.status, answer.body) == (200, b"")
    answer = await served.get("/v1/info", body=b"x")
    assert answer.error == (400, "bad_request", "expected a request without a body")


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        (HOST, True),
        (f"{HOST}:80", True),
        ("LocalHost:1", True),
        ("127.200.1.1", True),
        ("[::1]:9100", True),
        ("lb.example", True),
        ("LB.example.:443", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        (f"{HOST}.evil.example", False),
        ("10.1.2.3", False),
        ("0.0.0.0", False),
        ("localhost:port", False),
        ("[::1", False),
        ("", False),
    ],
)
async def test_host_and_origin_must_name_the_server(
    served: HttpAgent, host: str, is_ours: bool
) -> None:
    answer = await served.get("/-/healthy", {"Host": host})
    assert answer.status == (200 if is_ours else 403)
    if not is_ours:
        expected = f"Host: {host!r} is not a name of this server; http_hosts adds one"
        assert answer.error == (403, "forbidden", expected)
    answer = await served.get("/metrics", {"Origin": f"http://{host}"})
    assert answer.status == (200 if is_ours else 403)
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("origin", ["null", "localhost", "file://localhost", "http:localhost"])
async def test_other_origins_are_refused(served: HttpAgent, origin: str) -> None:
    assert (await served.get("/metrics", {"Origin": origin})).error[:2] == (403, "forbidden")


def test_address_of_the_connection_is_accepted() -> None:
    names = HostNames(["0.0.0.0", "::"])
    assert names.accepts_host("10.1.2.3:80", "10.1.2.3")
    assert names.accepts_host("[FE80::1]:80", "fe80::1")
    assert names.accepts_host("10.1.2.3", "::ffff:10.1.2.3")
    assert not names.accepts_host("10.1.2.4", "10.1.2.3")
    assert not names.accepts_host("0.0.0.0", "10.1.2.3")
    assert (is_loopback("LOCALHOST"), is_loopback("::1"), is_loopback("a")) == (True, True, False)


def secret_file(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


async def test_token_is_required_but_for_health(tmp_path: Path) -> None:
    file = secret_file(tmp_path / "token", "s3cret-token\n")
    async with http_agent(http_token_file=file) as served:
        for path in ("/-/healthy", "/-/ready"):
            assert (await served.get(path)).status == 200
        for path in ("/metrics", "/", "/v1/events", "/openapi.json", "/nowhere"):
            answer = await served.get(path)
            assert answer.error[:2] == (401, "auth_required")
            assert answer.headers["www-authenticate"] == "Bearer"
        for value in ("Bearer s3cret-toke", "Bearer ", "Basic s3cret-token", "Bearer \xff"):
            answer = await served.get("/metrics", {"Authorization": value})
            assert answer.error[:2] == (401, "auth_failed")
        for value in ("Bearer s3cret-token", "bearer  s3cret-token"):
            assert (await served.get("/metrics", {"Authorization": value})).status == 200
        assert "Rejected a token of HTTP from 127.0.0.1" in served.log.getvalue()
        assert "s3cret" not in served.log.getvalue()
        # Another file, as on SIGHUP.
        secret_file(tmp_path / "token", "another")
        served.server.replace(await load_files(served.agent.config.http))
        answer = await served.get("/metrics", {"Authorization": "Bearer another"})
        assert answer.status == 200


@pytest.mark.parametrize("text", ["", "\n", "a b", "one\ntwo", "é", "x" * 5000])
def test_file_without_a_token_is_rejected(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"http_token_file: .*expected a file whose only line"):
        read_token(secret_file(tmp_path / "token", text))


def test_token_is_not_shown() -> None:
    assert "s3cret" not in repr(HttpFiles(HostNames([]), b"s3cret"))


async def test_https_with_a_certificate_that_is_replaced(tmp_path: Path) -> None:
    authority = new_authority(tmp_path)
    old, new = authority.issue("old", HOST), authority.issue("new", HOST)
    expected = ssl.PEM_cert_to_DER_cert(await trio.Path(new.cert).read_text())
    client = ssl.create_default_context(cafile=authority.file)
    keys = {"http_tls_cert": old.cert, "http_tls_key": old.key}
    async with http_agent(client, **keys) as served:
        assert (await served.get("/-/healthy")).status == 200
        assert await served.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n") == b""
        with pytest.raises(ssl.SSLCertVerificationError):
            await HttpAgent(
                served.agent, served.server, served.log, ssl.create_default_context()
            ).get("/-/healthy")
        options = HttpOptions(addr=f"{HOST}:0", tls_cert=new.cert, tls_key=new.key)
        served.server.replace(await load_files(options))
        assert await _certificate(served, client) == expected
        assert await served.works()


async def _certificate(served: HttpAgent, context: ssl.SSLContext) -> bytes:
    with trio.fail_after(30):
        stream = await trio.open_ssl_over_tcp_stream(HOST, served.port, ssl_context=context)
        async with stream:
            await stream.do_handshake()
            found: bytes = stream.getpeercert(binary_form=True)
            return found


async def test_metrics_addr_serves_the_same() -> None:
    async with http_agent(metrics_addr="127.18.6.2:0") as served:
        addresses = served.server.addresses
        assert [address.partition(":")[0] for address in addresses] == ["127.18.6.2", HOST]
        with trio.fail_after(30):
            for address in addresses:
                host, _, port = address.partition(":")
                async with await trio.open_tcp_stream(host, int(port)) as stream:
                    await stream.send_all(b"GET /-/ready HTTP/1.0\r\n\r\n")
                    received = b"".join([bytes(part) async for part in stream])
                    assert received.endswith(b"\r\n\r\nready\n")


# --- configuration ---


@pytest.mark.parametrize(
    ("text", "found"),
    [(":80", ("127.0.0.1", 80)), ("[::]:0", ("::", 0)), ("host:1", ("host", 1))],
)
def test_address_without_a_host_is_loopback(text: str, found: tuple[str, int]) -> None:
    assert split_http_address(text, "http_addr") == found


async def test_taken_address_is_reported() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host=HOST)
    async with listener:
        taken = f"{HOST}:{listener.socket.getsockname()[1]}"
        text = f"metrics_addr: cannot listen on {taken}: already in use"
        with pytest.raises(AddressError, match=text):
            async with bind_http(HttpOptions(metrics_addr=taken)):
                pass


def problems_of(values: dict[str, Any]) -> list[str]:
    checked = check_configuration(Sources(overrides=values))
    return [str(one) for one in (*checked.problems, *checked.warnings)]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"http_addr": "nowhere"}, "http_addr: 'nowhere': expected host:port"),
        ({"http_addr": "127.0.0.1:x"}, "http_addr: '127.0.0.1:x': expected host:port"),
        ({"http_addr": ":1", "metrics_addr": "a b:1"}, "metrics_addr: 'a b:1': expected host"),
        ({"http_addr": ":1", "http_hosts": ["a:1"]}, "http_hosts: 'a:1': expected a name or"),
        ({"http_addr": ":1", "http_token_file": "/nonexistent/x"}, "No such file or directory"),
        ({"http_addr": ":1", "http_tls_cert": "/nonexistent/x"}, "http_tls_cert: /nonexistent/x"),
        ({"http_addr": ":1", "http_tls_key": "x"}, "http_tls_key: has no certificate; expected"),
        ({"http_hosts": ["a"]}, "http_hosts: has no effect without an address"),
        ({"http_addr": "0.0.0.0:1"}, "every host that can connect can read members"),
    ],
)
def test_unusable_configuration_is_reported_in_one_line(values: dict[str, Any], text: str) -> None:
    (problem,) = problems_of(values)
    assert text in problem


def test_open_files_are_reported(tmp_path: Path) -> None:
    files = new_authority(tmp_path).issue("a", HOST)
    token = secret_file(tmp_path / "token", "abc", 0o644)
    Path(files.key).chmod(0o644)
    values = {
        "http_addr": ":1", "http_token_file": token, "http_tls_cert": files.cert,
        "http_tls_key": files.key,
    }  # fmt: skip
    first, second = problems_of(values)
    assert "http_token_file" in first
    assert "every user can read or change it (mode 0644)" in first
    assert f"http_tls_key: {files.key}: every user can read" in second
