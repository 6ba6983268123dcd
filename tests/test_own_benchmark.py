"""`--benchmark module:function`: what the function returns, and what it says that it returns."""

import pytest

from gmixout.allowed import allowing
from gmixout.bench.benchmarks import check_benchmark_name, load_benchmark
from gmixout.data import Benchmark
from gmixout.errors import ConfigError
from gmixout.models import Pretrained

MODULE = """
from typing import Any
from toy_benchmark import toy, toy_pretrained, toy_task
from gmixout.data import Benchmark, LabelledImages
from gmixout.models import Pretrained
def bare(): return toy_task()
def typed() -> tuple[Benchmark, Pretrained]: return toy_task()
def of_images() -> tuple[Benchmark[LabelledImages], Pretrained]: return toy_task()
def unknown() -> "tuple[Nowhere, Pretrained]": return toy_task()
def alone() -> Benchmark: raise AssertionError("called")
def swapped() -> tuple[Pretrained, Benchmark]: raise AssertionError("called")
def numbers() -> tuple[int, int]: raise AssertionError("called")
def three() -> tuple[Benchmark, Pretrained, int]: raise AssertionError("called")
def gives_data(): return toy()
def gives_three(): return (*toy_task(), 3)
def gives_swapped(): return toy_pretrained(), toy()
def gives_nothing(): return None
"""


@pytest.fixture(autouse=True)
def _own(tmp_path, monkeypatch):
    (tmp_path / "own_task.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    with allowing(["own_task"]):
        yield


@pytest.mark.parametrize("name", ["bare", "typed", "of_images", "unknown"])
def test_a_function_gives_data_and_a_model(name):
    check_benchmark_name(f"own_task:{name}")
    benchmark, pretrained = load_benchmark(f"own_task:{name}")
    assert isinstance(benchmark, Benchmark)
    assert isinstance(pretrained, Pretrained)


@pytest.mark.parametrize("name", ["alone", "swapped", "numbers", "three"])
def test_one_that_says_something_else_is_not_called(name):
    with pytest.raises(ConfigError, match=r"is annotated to return .*return benchmark, gmixout"):
        check_benchmark_name(f"own_task:{name}")


@pytest.mark.parametrize("name", ["gives_data", "gives_three", "gives_swapped", "gives_nothing"])
def test_one_that_gives_something_else_is_refused_with_the_way_out(name):
    with pytest.raises(ConfigError, match=r"gives a .*, not a Benchmark and a Pretrained: .*head="):
        load_benchmark(f"own_task:{name}")
