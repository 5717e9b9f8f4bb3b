"""The packages that are built: their contents, and the wheel in an empty environment."""

import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from importlib.metadata import distribution
from pathlib import Path
from shutil import copy2, copytree, ignore_patterns

import pytest
from packaging.requirements import Requirement

from tests.interop.agents import ROOT, agent, net, until
from trioserf.cli.app import COMMANDS

pytestmark = pytest.mark.interop

HOST = f"{net(7)}.85"
UNBUILT = ignore_patterns(".git", ".venv*", ".*cache*", "__pycache__", ".hypothesis", "*.egg-info")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and with the wheel that was built from the unpacked sdist."""
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"
    copytree(ROOT, source, ignore=UNBUILT)
    build(source, folder, "sdist")
    [archive] = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder / "unpacked", filter="data")
    [unpacked] = (folder / "unpacked").iterdir()
    build(unpacked, folder, "wheel")
    return folder


def build(source: Path, target: Path, kind: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(target)],
        cwd=source, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(built: Path) -> Iterator[zipfile.ZipFile]:
    [path] = built.glob("*.whl")
    with zipfile.ZipFile(path) as file:
        yield file


def test_wheel_has_the_whole_package(wheel: zipfile.ZipFile) -> None:
    package = ROOT / "trioserf"
    expected = {
        str(path.relative_to(ROOT))
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    packed = {name for name in wheel.namelist() if name.startswith("trioserf/")}
    assert packed == expected
    assert "trioserf/py.typed" in packed


def test_wheel_has_a_manual_page_for_each_command(wheel: zipfile.ZipFile) -> None:
    pages = {Path(name).name for name in wheel.namelist() if "/share/man/man1/" in name}
    commands = (f"-{name}" for names in COMMANDS.values() for name in names)
    assert pages == {f"trioserf{name}.1" for name in ("", *commands)}
    [query] = [name for name in wheel.namelist() if name.endswith("/trioserf-query.1")]
    assert r"\fB\-relay\-factor=N\fR" in wheel.read(query).decode()


def test_metadata_has_no_link_into_the_repository(wheel: zipfile.ZipFile) -> None:
    [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = message_from_bytes(wheel.read(name))
    text = str(metadata.get_payload())
    assert text.strip().startswith("# trioserf")
    assert "trioserf/agent/README.md" in text
    assert re.findall(r"\]\((?!https?://)[^)]*\)", text) == []
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["License-Expression"] == "Apache-2.0"


def test_wheel_runs_in_an_empty_environment(built: Path, tmp_path: Path) -> None:
    """Nothing is there but the wheel and the packages that its metadata requires."""
    bin_folder, site = make_environment(tmp_path / "env")
    [path] = built.glob("*.whl")
    subprocess.run(
        [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--offline", "--no-deps",
         "--python", str(bin_folder / "python"), str(path)],
        check=True, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    copy_requirements(path, site)
    trioserf = str(bin_folder / "trioserf")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "SERF_RPC_ADDR": f"{HOST}:7373"}
        return subprocess.run(
            words, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path, env=env
        )

    with agent(HOST, "packed", program=[trioserf]):
        until(lambda: run(trioserf, "info").returncode == 0)
        members = run(trioserf, "members")
        assert members.stdout.split() == ["packed", f"{HOST}:7946", "alive"]
        imported = run(
            str(bin_folder / "python"), "-c", "import trioserf; print(trioserf.__file__)"
        )
        assert imported.stdout.startswith(str(site))
    assert (tmp_path / "env/share/man/man1/trioserf.1").is_file()


def make_environment(folder: Path) -> tuple[Path, Path]:
    """Make an environment without packages; return its folders of programs and of packages."""
    venv.create(folder, with_pip=False, symlinks=True)
    [site] = folder.glob("lib/python*/site-packages")
    return folder / "bin", site


def copy_requirements(wheel: Path, site: Path) -> None:
    """Copy what a wheel requires without extras, and what these packages require, and so on."""
    with zipfile.ZipFile(wheel) as file:
        [name] = [name for name in file.namelist() if name.endswith(".dist-info/METADATA")]
        wanted = message_from_bytes(file.read(name)).get_all("Requires-Dist") or []
    copied = set()
    while wanted:
        requirement = Requirement(wanted.pop())
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = distribution(requirement.name)
        if found.name in copied:
            continue
        copied.add(found.name)
        wanted += found.requires or []
        for path in found.files or []:
            if ".." not in path.parts and path.suffix != ".pyc":
                (site / path).parent.mkdir(parents=True, exist_ok=True)
                copy2(str(path.locate()), site / path)
    assert {"trio", "attrs", "typer"} <= copied
