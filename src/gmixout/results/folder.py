"""Run folders: the names of their files."""

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
        """Every setting of the run."""
        return self.path / "config.yaml"

    @property
    def identity(self) -> Path:
        """Identity of the run besides the config, in which paths may change."""
        return self.path / "identity.json"

    @property
    def split(self) -> Path:
        """The set of each image of the user's own data."""
        return self.path / "split.csv"

    @property
    def log(self) -> RecordLog:
        """The records of all models."""
        return RecordLog(self.path / "records.jsonl")

    @property
    def model(self) -> Path:
        """The final weights."""
        return self.path / "model.safetensors"

    @property
    def calibration(self) -> Path:
        """Temperature of the final model's probabilities."""
        return self.path / "calibration.json"

    @property
    def predictions(self) -> Path:
        """Predictions of the final model on every test set, for the page of the run."""
        return self.path / "predictions.safetensors"

    @property
    def other_classes(self) -> Path:
        """Zero-shot accuracy on classes that finetuning never saw, before and after."""
        return self.path / "other_classes.json"

    @property
    def tracking(self) -> Path:
        """Where the run stands in its experiment trackers."""
        return self.path / "tracking.json"

    @property
    def trackers(self) -> Path:
        """Folder of the trackers' own files."""
        return self.path / "trackers"

    @property
    def checkpoint(self) -> Path:
        """State from which an unfinished training resumes."""
        return self.path / "checkpoint.pt"

    @property
    def error(self) -> Path:
        """Traceback of a run that failed unexpectedly."""
        return self.path / "error.txt"

    @property
    def lock(self) -> Path:
        """Held by the process that works in the folder."""
        return self.path / ".lock"

    @property
    def diagnosis(self) -> "DiagnosisFolder":
        """Results of `gmixout diagnose`."""
        return DiagnosisFolder(self.path / "diagnosis")

    @property
    def page(self) -> Path:
        """The report as a page."""
        return self.path / "report.html"

    @property
    def run_page(self) -> Path:
        """The report on a single run as a page."""
        return self.path / "run.html"

    @property
    def csv(self) -> Path:
        """The report as a table of every setting."""
        return self.path / "report.csv"

    @property
    def markdown(self) -> Path:
        """The report as a table with one row per method."""
        return self.path / "report.md"

    @property
    def latex(self) -> Path:
        """The same for a paper."""
        return self.path / "report.tex"

    def picture(self, name: str, kind: str) -> Path:
        """Return a figure of the report: id_ood, cost or sweep, as png or svg."""
        return self.path / f"{name}.{kind}"

    @property
    def report(self) -> list[Path]:
        """All files of a report; the last two only if a method's options were varied."""
        pictures = [self.picture(n, k) for n in ("id_ood", "cost", "sweep") for k in ("png", "svg")]
        return [self.page, self.csv, self.markdown, self.latex, *pictures]

    @property
    def runs(self) -> "list[RunFolder]":
        """The existing runs of a comparison."""
        found = sorted((self.path / _RUNS).glob("*"))
        return [RunFolder(each) for each in found if _HASH.fullmatch(each.name)]

    def run(self, name: str) -> "RunFolder":
        """Return the folder of one run of a comparison, by the hash of the run."""
        return RunFolder(self.path / _RUNS / name)

    @property
    def comparison(self) -> "RunFolder":
        """The folder of the comparison that a run in `runs` belongs to."""
        return RunFolder(self.path.parent.parent)


@dataclass(frozen=True)
class DiagnosisFolder:
    """The folder of a diagnosis inside that of its run."""

    path: Path

    @property
    def found(self) -> Path:
        """All measurements."""
        return self.path / "diagnosis.json"

    def picture(self, kind: str) -> Path:
        """Return the figure, as png or svg."""
        return self.found.with_suffix(f".{kind}")

    def repeat(self, seed: int) -> Path:
        """Return a finished repeat."""
        return self.path / f"seed-{seed}.safetensors"
