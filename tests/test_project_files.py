"""Files of the project that other tools read: workflows, citation, changelog, metadata."""

import re
from pathlib import Path

import pytest
import yaml

import gmixout

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = {*re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)}


def jobs():
    for file in WORKFLOWS:
        for name, job in yaml.safe_load(file.read_text())["jobs"].items():
            yield pytest.param(job, id=f"{file.stem}-{name}")


@pytest.mark.parametrize("job", list(jobs()))
def test_a_workflow_runs_commands_of_the_makefile_alone(job):
    assert job["timeout-minutes"] > 0 if "needs" not in job else job["needs"]
    steps = job["steps"]
    ran = [line for step in steps for line in step.get("run", "").splitlines() if line]
    assert ran or any("publish" in step.get("uses", "") for step in steps)
    for line in ran:
        program, target, *others = line.split()
        assert (program, others) == ("make", [])
        assert target in TARGETS, line
    for step in steps:
        assert step.keys() <= {"run", "uses", "with"}
        assert re.fullmatch(r"[\w./-]+@[\w./]+", step.get("uses", "a@v1"))


def test_workflows_do_what_the_makefile_offers_and_hold_no_secret():
    text = "".join(file.read_text() for file in WORKFLOWS)
    assert {"test", "test-long", "docs", "wheel"} <= {*re.findall(r"make ([\w-]+)", text)}
    assert "secrets" not in text
    test = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"][
        "test"
    ]
    pythons = test["strategy"]["matrix"]["python"]
    lowest = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert pythons == ["3.10", "3.11", "3.12", "3.13"]
    assert pythons[0] == lowest.group(1)
    assert all(isinstance(each, str) for each in pythons)  # 3.10 is not 3.1


def test_a_release_is_published_by_a_tag_without_a_stored_token():
    held = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    assert held[True] == {"push": {"tags": ["v*"]}}  # YAML reads `on` as true
    assert held["permissions"] == {"contents": "read"}
    assert held["jobs"]["publish"]["permissions"] == {"id-token": "write"}
    assert held["jobs"]["publish"]["needs"] == "build"


def test_the_citation_names_the_software_and_both_papers():
    held = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert held["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "type", "license"} <= held.keys()
    assert str(held["version"]) == gmixout.__version__
    papers = {each["identifiers"][0]["value"] for each in held["references"]}
    assert papers == {"10.48550/arXiv.2510.06982", "10.48550/arXiv.1909.11299"}
    for each in held["references"]:
        assert {"type", "title", "authors", "year", "url"} <= each.keys()
        assert each["url"].endswith(each["identifiers"][0]["value"].partition("arXiv.")[2])
        assert all({"family-names", "given-names"} <= author.keys() for author in each["authors"])


def test_the_version_is_one():
    text = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{gmixout.__version__}"' in text
    changes = (ROOT / "CHANGELOG.md").read_text()
    heads = re.findall(r"^## (.*)$", changes, re.M)
    assert heads[0] == "[Unreleased]"
    assert gmixout.__version__ in changes
    kinds = {*re.findall(r"^### (.*)$", changes, re.M)}
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_extras_for_users_are_in_all_and_those_for_developers_in_dev():
    part = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
    extras = dict(re.findall(r"^([\w-]+) = \[(.*)\]$", part.partition("\n[")[0], re.M))
    inside = {}
    for name in ("all", "dev"):
        (others,) = re.findall(r"gmixout\[([^]]*)\]", extras[name])
        inside[name] = {*others.split(",")}
    assert inside["dev"] >= {"all", "real", "docs", "integrations-test"}
    assert inside["all"] | inside["dev"] | {"dev"} == extras.keys()
