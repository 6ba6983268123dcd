from collections.abc import Iterator
from functools import cache

import pytest
from report_records import all_methods, make_records, make_sweep, write_folder

from gmixout.evaluation.records import Record
from gmixout.evaluation.summary import Estimate


@pytest.fixture(scope="package", autouse=True)
def _each_interval_once() -> Iterator[None]:
    """Most of a report's time goes to intervals, and those of the same values are the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Estimate, "bootstrap", cache(Estimate.bootstrap))
        yield


@pytest.fixture(scope="session")
def records() -> list[Record]:
    return make_records()


@pytest.fixture(scope="session")
def every_method() -> list[Record]:
    return make_records(all_methods())


@pytest.fixture(scope="session")
def sweep() -> list[Record]:
    return make_sweep()


@pytest.fixture
def run_folder(tmp_path, records):
    return write_folder(tmp_path, records[:21])
