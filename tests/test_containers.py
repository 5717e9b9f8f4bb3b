"""The Dockerfile and what runs its image agree with each other, and with the agent.

`scripts/check-image` builds the root of the image without an engine, and runs members in it.
"""

import json
from pathlib import Path

import pytest

from tests.container_files import (
    ROOT,
    image_environment,
    manifests,
    pod_container,
    pod_environment,
    services,
    setting,
    stages,
)
from trioserf.agent.config import AgentConfig
from trioserf.agent.config_environment import variables
from trioserf.agent.config_sources import Sources
from trioserf.control.server.config_check import check_configuration
from trioserf.node.config import DEFAULT_PORT as GOSSIP_PORT
from trioserf.settings import settings_of

ENVIRONMENTS = {
    **{name: {**image_environment(), **one["environment"]} for name, one in services().items()},
    "pod": {**image_environment(), **pod_environment("trioserf-0", "10.0.0.1")},
}


def test_image_runs_as_its_own_user_and_leaves_on_its_stop_signal() -> None:
    [user] = setting("USER")
    uid, _, gid = user.partition(":")
    assert int(uid) > 999
    assert uid == gid
    created = [one for one in stages()[-1] if one.name == "RUN" and f"--uid {uid}" in one.text]
    assert created
    assert setting("STOPSIGNAL") == ["SIGINT"]
    assert setting("ENTRYPOINT") == ["trioserf"]
    pod = manifests()["StatefulSet"]["spec"]["template"]["spec"]["securityContext"]
    assert {pod["runAsUser"], pod["runAsGroup"], pod["fsGroup"]} == {int(uid)}


def test_health_check_waits_longer_than_its_command() -> None:
    [check] = [one for one in stages()[-1] if one.name == "HEALTHCHECK"]
    options, _, command = check.text.partition(" CMD ")
    assert json.loads(command) == ["trioserf", "health"]
    assert "--timeout=10s" in options.split()  # `health` gives up after 5 s


def test_image_has_no_packages_or_lists_that_it_does_not_need() -> None:
    for stage in stages():
        for one in stage:
            if one.name == "RUN" and "apt-get" in one.text:
                assert "--no-install-recommends" in one.text
                assert one.text.endswith("rm -rf /var/lib/apt/lists/*")
            if one.name == "RUN" and "pip install" in one.text:
                assert "--no-cache-dir" in one.text


def test_context_has_what_the_package_is_built_from() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert "*" in lines
    assert all((ROOT / name).exists() for name in kept)
    assert {"trioserf", "pyproject.toml", "README.md"} <= kept


@pytest.mark.parametrize("name", sorted(ENVIRONMENTS))
def test_variables_are_keys_of_the_configuration(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = dict(ENVIRONMENTS[name])
    key = tmp_path / "key"
    key.write_text("HHJ4Q5zcSEVSpcGXM7wKsBvVhUUBPQFJXJvDmVkZ0rA=\n")
    key.chmod(0o400)
    found["TRIOSERF_ENCRYPT_KEY_FILE"] = str(key)
    found["TRIOSERF_SNAPSHOT_PATH"] = str(tmp_path / "snapshot")
    _, warnings = variables(found, settings_of(AgentConfig))
    assert warnings == []
    checked = check_configuration(Sources(environ=found))
    assert [str(one) for one in checked.problems] == []
    own = {one for one in found if one.startswith("TRIOSERF_")}
    assert {one.removeprefix("TRIOSERF_").lower() for one in own} <= settings_of(
        AgentConfig
    ).keys()


def test_compose_has_five_members_with_one_key() -> None:
    found = services()
    assert len(found) == 5
    for name, one in found.items():
        assert one["hostname"] == name
        assert one["secrets"] == ["gossip_key"]
        assert one["environment"]["TRIOSERF_ENCRYPT_KEY_FILE"] == "/run/secrets/gossip_key"
        assert one["volumes"] == [f"{name}:{setting('VOLUME')[0]}"]
        assert set(json.loads(one["environment"]["TRIOSERF_RETRY_JOIN"])) <= found.keys()
        assert one["read_only"]
        assert one["cap_drop"] == ["ALL"]


def test_ports_are_those_of_the_agent() -> None:
    gossip = {f"{GOSSIP_PORT}/tcp", f"{GOSSIP_PORT}/udp"}
    assert {word for one in stages()[-1] if one.name == "EXPOSE" for word in one.words} == gossip
    ports = {
        (one["name"], one["containerPort"], one["protocol"]) for one in pod_container()["ports"]
    }
    http = int(pod_environment("", "")["TRIOSERF_HTTP_ADDR"].rpartition(":")[2])
    assert ports == {
        ("gossip-tcp", GOSSIP_PORT, "TCP"),
        ("gossip-udp", GOSSIP_PORT, "UDP"),
        ("http", http, "TCP"),
    }
    service = manifests()["Service"]["spec"]
    assert {(one["name"], one["port"], one["protocol"]) for one in service["ports"]} == ports
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"]


def test_names_and_labels_of_kubernetes_match() -> None:
    found = manifests()
    service, workload = found["Service"], found["StatefulSet"]
    labels = workload["spec"]["template"]["metadata"]["labels"]
    assert workload["spec"]["serviceName"] == service["metadata"]["name"]
    assert json.loads(pod_environment("", "")["TRIOSERF_RETRY_JOIN"]) == [
        service["metadata"]["name"]
    ]
    for selector in (
        service["spec"]["selector"],
        workload["spec"]["selector"]["matchLabels"],
        found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector == labels
    pod = workload["spec"]["template"]["spec"]
    known = {one["name"] for one in pod["volumes"]}
    known |= {one["metadata"]["name"] for one in workload["spec"]["volumeClaimTemplates"]}
    mounts = {one["name"]: one["mountPath"] for one in pod_container()["volumeMounts"]}
    assert mounts.keys() == known
    assert mounts["state"] == setting("VOLUME")[0]
    key = pod_environment("", "")["TRIOSERF_ENCRYPT_KEY_FILE"]
    assert Path(key).parent == Path(mounts["key"])


@pytest.mark.parametrize("probe", ["startupProbe", "livenessProbe", "readinessProbe"])
def test_probes_ask_paths_that_need_no_token(probe: str) -> None:
    asked = pod_container()[probe]["httpGet"]
    assert asked["port"] == "http"
    assert asked["path"] == ("/-/ready" if probe == "readinessProbe" else "/-/healthy")
