"""The wheel and the sdist: complete, and usable with their declared dependencies alone."""

import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def tracked(*patterns):
    """Files of the tree that git has or would take, from its root."""
    words = ["git", "ls-files", "-co", "--exclude-standard", "--", *patterns]
    found = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [Path(name) for name in found.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """A folder with the wheel and the sdist, built from a copy of the tree."""
    tree = tmp_path_factory.mktemp("tree")
    for file in tracked("src", "README.md", "LICENSE", "pyproject.toml"):
        (tree / file).parent.mkdir(parents=True, exist_ok=True)
        (tree / file).write_bytes((ROOT / file).read_bytes())
    out = tmp_path_factory.mktemp("dist")
    words = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, tree]
    end = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert end.returncode == 0, end.stdout + end.stderr
    return out


@pytest.mark.long
def test_wheel_and_sdist_hold_every_file_of_the_package_and_no_other(dist):
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")
    own = {file.relative_to("src").as_posix() for file in tracked("src")}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == own
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"src/{name}" for name in own} <= names
    assert {"README.md", "LICENSE", "pyproject.toml"} <= names


def needed(extra):
    """Names of all distributions that gmixout needs with an extra, and those that they need."""
    lines = (ROOT / "pyproject.toml").read_text()  # what is installed may be of an older tree
    base = re.search(r"^dependencies = \[(.*)\]$", lines, re.M).group(1)
    with_extra = re.search(rf"^{extra} = \[(.*)\]$", lines, re.M).group(1) if extra else ""
    left = [Requirement(text) for text in re.findall(r'"([^"]+)"', f"{base}, {with_extra}")]
    found, seen = set(), set()
    while left:
        requirement = left.pop()
        key = (requirement.name.lower(), *sorted(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            requires = distribution(requirement.name).requires or ()
        except PackageNotFoundError:  # for another platform
            continue
        found.add(requirement.name)
        for text in requires:
            inner = Requirement(text)
            extras = requirement.extras or {""}
            if inner.marker is None or any(inner.marker.evaluate({"extra": e}) for e in extras):
                left.append(inner)
    return found


def environment(folder, wheel, extra):
    """Make an environment with the wheel and links to what it needs; return its Python."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    words = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "-q"]
    subprocess.run([*words, "--no-index", str(wheel)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in needed(extra):
        package = distribution(name)
        for top in {file.parts[0] for file in package.files or () if ".." not in file.parts}:
            source = Path(package.locate_file(top))
            if source.exists() and not (site / top).exists():
                (site / top).symlink_to(source)
    return python


def run(python, *words, folder):
    clean = {n: v for n, v in os.environ.items() if n not in ("PYTHONPATH", "PYTHONHOME")}
    return subprocess.run(
        [str(word) for word in (python, *words)],
        cwd=folder, env=clean, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.long
def test_bare_the_library_works_and_the_command_says_what_to_install(dist, tmp_path):
    (wheel,) = dist.glob("*.whl")
    python = environment(tmp_path / "env", wheel, "")
    code = (
        "import gmixout, torch\n"
        "model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))\n"
        "masked = gmixout.attach(model, gmixout.GMixout())\n"
        "optimizer = masked.bind(torch.optim.AdamW(masked.param_groups(1e-3)))\n"
        "model(torch.ones(2, 4)).sum().backward()\n"
        "optimizer.step()\n"
        "masked.detach()\n"
        "print(gmixout.__file__)"
    )
    end = run(python, "-c", code, folder=tmp_path)
    assert end.returncode == 0, end.stderr
    assert str(tmp_path) in end.stdout
    end = run(python, "-m", "gmixout", "--help", folder=tmp_path)
    assert end.returncode == 2
    assert "pip install 'gmixout[all]'" in end.stderr
    assert "Traceback" not in end.stderr


@pytest.mark.long
def test_with_the_extra_train_the_command_line_starts(dist, tmp_path):
    (wheel,) = dist.glob("*.whl")
    python = environment(tmp_path / "env", wheel, "train")
    for words, said in (
        (["--help"], "completion"),
        (["finetune", "--help"], "--method NAME"),
        (["doctor", "--no-speed"], "lacks timm"),
        (["completion", "bash"], "_shtab_gmixout"),
    ):
        end = run(python, "-m", "gmixout", *words, folder=tmp_path)
        assert end.returncode == 0, end.stderr
        assert said in end.stdout
