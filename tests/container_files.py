"""The files of scripts/containers, as values."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import yaml

ROOT: Final = Path(__file__).parent.parent
FOLDER: Final = ROOT / "scripts" / "containers"


@attrs.frozen
class Instruction:
    """An instruction of a Dockerfile; `text` has no line breaks."""

    name: str
    text: str

    @property
    def words(self) -> list[str]:
        """Its arguments: a list of JSON, or words as a shell has them."""
        return json.loads(self.text) if self.text.startswith("[") else shlex.split(self.text)


def instructions(text: str) -> Iterator[Instruction]:
    """Yield the instructions of a Dockerfile."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    for one in "\n".join(lines).replace("\\\n", " ").splitlines():
        name, _, rest = one.partition(" ")
        yield Instruction(name, re.sub(r"\s+", " ", rest.strip()))


def stages() -> list[list[Instruction]]:
    """Return the stages of the Dockerfile, each beginning with FROM."""
    found: list[list[Instruction]] = []
    for one in instructions((FOLDER / "Dockerfile").read_text("utf-8")):
        if one.name == "FROM":
            found.append([])
        found[-1].append(one)
    return found


def setting(name: str) -> list[str]:
    """Return the words of the last instruction with this name in the last stage."""
    return [one.words for one in stages()[-1] if one.name == name][-1]


def image_environment() -> dict[str, str]:
    """Return the variables that the image sets."""
    words = [word for one in stages()[-1] if one.name == "ENV" for word in one.words]
    return dict(word.split("=", 1) for word in words)


def services() -> Mapping[str, Mapping[str, Any]]:
    """Return the services of compose.yaml, by name."""
    found: Mapping[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text("utf-8"))
    result: Mapping[str, Mapping[str, Any]] = found["services"]
    return result


def manifests() -> dict[str, Any]:
    """Return the objects of kubernetes.yaml, by kind."""
    documents = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text("utf-8"))
    return {one["kind"]: one for one in documents}


def pod_container() -> dict[str, Any]:
    """Return the only container of the pods."""
    pod: dict[str, Any] = manifests()["StatefulSet"]["spec"]["template"]["spec"]
    [found] = pod["containers"]
    result: dict[str, Any] = found
    return result


def pod_environment(name: str, address: str) -> dict[str, str]:
    """Return the variables of a pod.

    Args:
        name: its name.
        address: its address.
    """
    fields = {"metadata.name": name, "status.podIP": address}
    return {
        one["name"]: one.get("value") or fields[one["valueFrom"]["fieldRef"]["fieldPath"]]
        for one in pod_container()["env"]
    }
