"""The folder of a run: what its files are called."""

import re
from dataclasses import dataclass
from pathlib import Path

from gmixout.results.log import RecordLog

_HASH = re.compile("[0-9a-f]{12}")
_RUNS = "runs"


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run or of a comparison, which holds a folder for each of its runs."""

    path: Path

    @property
    def config(self) -> Path:
        """What was run, with every setting."""
        return self.path / "config.yaml"

    @property
    def identity(self) -> Path:
        """What tells the run from others, beside the config, in which paths may change."""
        return self.path / "identity.json"

    @property
    def log(self) -> RecordLog:
        """The records of all models."""
        return RecordLog(self.path / "records.jsonl")

    @property
    def model(self) -> Path:
        """The final weights."""
        return self.path / "model.safetensors"

    @property
    def checkpoint(self) -> Path:
        """Where an unfinished training goes on from."""
        return self.path / "checkpoint.pt"

    @property
    def error(self) -> Path:
        """The traceback of a run that failed in a way that nobody foresaw."""
        return self.path / "error.txt"

    @property
    def lock(self) -> Path:
        """Held by the process that works in the folder."""
        return self.path / ".lock"

    @property
    def diagnosis(self) -> "DiagnosisFolder":
        """What `gmixout diagnose` found out about the run."""
        return DiagnosisFolder(self.path / "diagnosis")

    @property
    def page(self) -> Path:
        """The report as a page."""
        return self.path / "report.html"

    @property
    def csv(self) -> Path:
        """The report as a table of every setting."""
        return self.path / "report.csv"

    @property
    def markdown(self) -> Path:
        """The report as a table of one row a method."""
        return self.path / "report.md"

    @property
    def latex(self) -> Path:
        """The same for a paper."""
        return self.path / "report.tex"

    def picture(self, name: str, kind: str) -> Path:
        """A picture of the report: id_ood, cost or sweep, as png or svg."""
        return self.path / f"{name}.{kind}"

    @property
    def report(self) -> list[Path]:
        """All files of a report; the last two where a method's options were varied."""
        pictures = [self.picture(n, k) for n in ("id_ood", "cost", "sweep") for k in ("png", "svg")]
        return [self.page, self.csv, self.markdown, self.latex, *pictures]

    @property
    def runs(self) -> "list[RunFolder]":
        """The runs of a comparison that are there."""
        found = sorted((self.path / _RUNS).glob("*"))
        return [RunFolder(each) for each in found if _HASH.fullmatch(each.name)]

    def run(self, name: str) -> "RunFolder":
        """The folder of one run of a comparison, by the hash of what it is."""
        return RunFolder(self.path / _RUNS / name)

    @property
    def comparison(self) -> "RunFolder":
        """The folder of the comparison that a run in `runs` is part of."""
        return RunFolder(self.path.parent.parent)


@dataclass(frozen=True)
class DiagnosisFolder:
    """The folder of a diagnosis inside that of its run."""

    path: Path

    @property
    def found(self) -> Path:
        """All figures."""
        return self.path / "diagnosis.json"

    def picture(self, kind: str) -> Path:
        """The picture, as png or svg."""
        return self.found.with_suffix(f".{kind}")

    def repeat(self, seed: int) -> Path:
        """A finished repeat."""
        return self.path / f"seed-{seed}.safetensors"
