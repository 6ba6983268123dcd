"""The jobs behind the commands, a file each: plain typed functions over run folders."""

from gmixout.bench.compare import compare, sweep
from gmixout.bench.data import check
from gmixout.bench.derive import interpolate, soup
from gmixout.bench.diagnose import diagnose
from gmixout.bench.doctor import doctor
from gmixout.bench.evaluate import evaluate
from gmixout.bench.finetune import finetune
from gmixout.bench.report import report

__all__ = [
    "check",
    "compare",
    "diagnose",
    "doctor",
    "evaluate",
    "finetune",
    "interpolate",
    "report",
    "soup",
    "sweep",
]
