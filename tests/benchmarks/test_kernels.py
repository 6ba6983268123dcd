"""`benchmarks/kernels.py`: that it compares like with like, and runs."""

import json
from pathlib import Path

import kernels
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

SMALL = ["vit_s.proj", "resnet50.layer4.3x3", "resnet50.layer4.1x1"]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("structure", kernels.STRUCTURES)
def test_masked_and_dense_gradients_are_those_of_the_same_layer(name: str, structure: str) -> None:
    layer = kernels.LAYERS[name]
    grad, input = layer.make_operands(1, torch.float32, torch.device("cpu"))
    operations, density = kernels.make_operations(layer, structure, 0.1, grad, input)
    index = operations["draw"]()
    cut = kernels.STRUCTURES[structure](layer.weight, kernels.BLOCK_SIZE)
    dense = cut.gather(layer.dense(grad, input), index)
    torch.testing.assert_close(operations["gradient"](), dense, atol=1e-3, rtol=1e-4)
    assert dense.numel() == round(density * layer.dense(grad, input).numel())


@pytest.mark.parametrize("name", SMALL)
def test_flops_are_torchs_count(name: str) -> None:
    layer = kernels.LAYERS[name]
    operands = layer.make_operands(1, torch.float32, torch.device("cpu"))
    with FlopCounterMode(display=False) as counter:
        layer.dense(*operands)
    assert layer.flops(1) == counter.get_total_flops()


def test_prints_a_row_a_case_and_writes_every_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "kernels.json"
    words = ["--batch", "1", "--layers", *SMALL[:2], "--density", "0.1", "--repeats", "2"]
    words += ["--seconds", "1e-4", "--peak-sides", "32", "64", "--out", str(out)]
    kernels.main(words)
    rows = [line for line in capsys.readouterr().out.splitlines() if "│ 0.1 " in line]
    assert len(rows) == 2 * len(kernels.STRUCTURES)
    results = json.loads(out.read_text())
    timed = [each for layer in results["layers"].values() for each in layer["operations"]]
    assert all(len(each["seconds"]) == 2 and min(each["seconds"]) > 0 for each in timed)
    assert {each["operation"] for each in timed} == set(kernels.OPERATIONS)
    assert set(results["peak_flops_a_second"]) == {"32", "64"}
