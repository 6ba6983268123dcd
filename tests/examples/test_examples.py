"""Each example runs; killed in mid-run and started again, it ends with the same weights."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import stopped_runs
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
EXAMPLES = {
    # name: (step at which it is killed, steps by its last checkpoint, options)
    "hf_trainer": (35, 20, []),
    "lightning_fit": (100, 88, []),
    "accelerate_loop": (100, 88, []),
    "timm_loop": (100, 86, []),
    "torchvision_loop": (100, 88, []),
    "open_clip_zero_shot": (100, 88, []),
    "text_minilm": (120, 100, ["--tiny"]),
}


def test_every_example_is_run_here():
    names = {path.stem for path in ROOT.glob("examples/*.py")}
    assert names == EXAMPLES.keys() == stopped_runs.LIBRARIES.keys()


@pytest.fixture(scope="module", params=EXAMPLES)
def ended(request, tmp_path_factory) -> tuple[str, dict[str, int], Path]:
    """An example, the steps of its three runs, and the folder with what they left."""
    name = request.param
    step, _, words = EXAMPLES[name]
    folder = tmp_path_factory.mktemp(name)
    command = [sys.executable, "-W", "ignore", stopped_runs.__file__]
    end = subprocess.run(
        [*command, str(ROOT / "examples" / f"{name}.py"), str(folder), str(step), *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert end.returncode == 0, end.stdout[-3000:] + end.stderr[-3000:]
    return name, json.loads(end.stdout.splitlines()[-1]), folder


def final(folder: Path) -> dict[str, torch.Tensor]:
    if (folder / "final").exists():
        return load_file(folder / "final" / "model.safetensors")
    return torch.load(folder / "final.pt", weights_only=True)


def test_killed_and_run_again_ends_with_the_same_weights(ended):
    name, taken, folder = ended
    killed, saved, _ = EXAMPLES[name]
    assert taken == {"whole": taken["whole"], "killed": killed, "resumed": taken["whole"] - saved}
    whole, resumed = final(folder / "whole"), final(folder / "resumed")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def plain(name: str) -> torch.nn.Module:
    """The example's model as its library makes it, with weights of its own."""
    if name == "torchvision_loop":
        from torchvision.models import VisionTransformer

        return VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=10)
    if name == "open_clip_zero_shot":
        import open_clip

        vision = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
        text = {"width": 32, "layers": 1, "heads": 2, "context_length": 16}
        return open_clip.CLIP(embed_dim=32, vision_cfg=vision, text_cfg=text)
    import timm

    return timm.create_model("test_vit", num_classes=10, img_size=32)


READ = """
import sys
sys.modules["gmixout"] = None  # cannot be imported
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification
kind = AutoModelForSequenceClassification if "text" in sys.argv[1] else AutoModelForImageClassification
_, report = kind.from_pretrained(sys.argv[2], output_loading_info=True)
assert not any(report.values()), report
"""  # noqa: E501


def test_its_library_alone_reads_the_final_weights(ended):
    name, _, folder = ended
    if (folder / "whole" / "final").exists():
        command = [sys.executable, "-W", "ignore", "-c", READ, name, str(folder / "whole/final")]
        end = subprocess.run(command, capture_output=True, text=True, check=False)
        assert end.returncode == 0, end.stderr[-3000:]
    else:
        model = plain(name)
        model.load_state_dict(final(folder / "whole"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_short_and_marks_its_two_lines(name):
    lines = (ROOT / "examples" / f"{name}.py").read_text().splitlines()
    assert len(lines) <= 90
    assert [line.rpartition("  # ")[2] for line in lines if re.search(r"  # (one|two)$", line)] == [
        "one",
        "two",
    ]
    assert sum("gmixout" in line and "import" not in line for line in lines) <= 9
