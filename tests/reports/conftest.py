import pytest
from report_records import all_methods, make_records, make_sweep, write_folder

from gmixout.results import Record


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
