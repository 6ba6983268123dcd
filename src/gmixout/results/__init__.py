"""What came out: records, their file, the folder of a run, and the study that aggregates them."""

from gmixout.results.folder import RunFolder
from gmixout.results.log import RecordLog
from gmixout.results.record import BenchmarkFacts, Machine, MethodFacts, Record, Training
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
