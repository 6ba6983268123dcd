"""Results: records and their file, run folders, and the study that aggregates records."""

from gmixout.results.facts import BenchmarkFacts, Machine, MethodFacts, Training
from gmixout.results.folder import RunFolder
from gmixout.results.log import RecordLog
from gmixout.results.record import Record
from gmixout.results.study import Study, studies

__all__ = [
    "BenchmarkFacts",
    "Machine",
    "MethodFacts",
    "Record",
    "RecordLog",
    "RunFolder",
    "Study",
    "Training",
    "studies",
]
