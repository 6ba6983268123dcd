"""Whatever a model's files hold, loading them runs nothing and asks nothing."""

import builtins
import io
import json
import os
import pickle
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from tiny_foundations import (
    CLASSES,
    add_tiny_clip,
    clip_config,
    clip_folder,
    hf_clip,
    hf_vit,
    timm_folder,
)

from gmixout.errors import DataError
from gmixout.models import load_pretrained
from gmixout.models.hub import loading

pytest.importorskip("timm")
pytest.importorskip("open_clip")


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def saved(mark: Path, **options) -> bytes:
    file = io.BytesIO()
    torch.save({"state_dict": {"w": torch.zeros(1)}, "x": Evil(mark)}, file, **options)
    return file.getvalue()


def disguised(mark: Path) -> bytes:
    """A pickle that a quick look takes for TorchScript."""
    file = io.BytesIO(saved(mark))
    with zipfile.ZipFile(file, "a") as archive:
        root = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{root}/x/constants.pkl", b"")
        archive.writestr(f"{root}/code/__torch__.py", b"")
    return file.getvalue()


def archive(mark: Path) -> bytes:
    """TorchScript that writes to a file when it is loaded."""

    class Writes(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("w", torch.zeros(1))
            self.mark = str(mark)

        @torch.jit.export
        def __getstate__(self) -> tuple[torch.Tensor, str, bool]:
            return self.w, self.mark, self.training

        @torch.jit.export
        def __setstate__(self, state: tuple[torch.Tensor, str, bool]) -> None:
            self.mark = state[1]
            self.training = state[2]
            self.w = torch.from_file(state[1], True, 64, dtype=torch.uint8).fill_(65)

        def forward(self, x):
            return x

    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        torch.jit.save(torch.jit.script(Writes()), file)
    return file.getvalue()


FILES = {
    "pickle": lambda mark: pickle.dumps(Evil(mark)),
    "torch": saved,
    "torch, legacy": lambda mark: saved(mark, _use_new_zipfile_serialization=False),
    "disguised": disguised,
    "TorchScript": archive,
}


def in_timm_folder(folder: Path, content: bytes) -> str:
    timm_folder(folder)
    (folder / "model.safetensors").unlink(missing_ok=True)
    (folder / "pytorch_model.bin").write_bytes(content)
    return f"timm:{folder}"


def in_clip_folder(folder: Path, content: bytes) -> str:
    clip_folder(folder)
    (folder / "open_clip_model.safetensors").unlink()
    (folder / "open_clip_pytorch_model.bin").write_bytes(content)
    return f"open_clip:{folder}"


def in_hf_folder(folder: Path, content: bytes) -> str:
    hf_vit(folder, ["a", "b"])
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    return f"hf:{folder}"


def as_file(model: str, name: str):
    def place(folder: Path, content: bytes) -> str:
        (folder / name).write_bytes(content)
        return f"{model}@{folder / name}"

    return place


PICKLES = {
    "timm folder": "pytorch_model.bin",
    "open_clip folder": "open_clip_pytorch_model.bin",
    "hf folder": "pytorch_model.bin",
}


def tiny_vit(folder: Path) -> Path:
    return hf_vit(folder, ["a", "b"])


PLACES = {
    "timm file": as_file("timm:test_vit", "w.pth"),
    "timm npz": as_file("timm:vit_tiny_patch16_224", "w.npz"),
    "timm folder": in_timm_folder,
    "open_clip file": as_file("open_clip:tiny-clip", "w.pt"),
    "open_clip folder": in_clip_folder,
    "hf folder": in_hf_folder,
}


@pytest.mark.filterwarnings("ignore:.*TorchScript archive")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", FILES)
def test_weights_that_are_more_than_weights_are_refused(kind, place, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    add_tiny_clip(tmp_path, monkeypatch)
    mark = tmp_path / "mark"
    (tmp_path / "model").mkdir()
    name = PLACES[place](tmp_path / "model", FILES[kind](mark))
    with pytest.raises(DataError) as error:
        load_pretrained(name, CLASSES)
    assert not mark.exists()
    if kind == "TorchScript" and "file" in place:
        assert "torch.save(torch.jit.load(" in str(error.value)
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"


@pytest.mark.parametrize("options", [{}, {"weights_only": False}])
def test_nothing_that_a_library_asks_torch_for_unpickles_code(options, tmp_path):
    file = tmp_path / "w.pt"
    file.write_bytes(saved(tmp_path / "mark"))
    with pytest.raises(DataError, match="more than weights"), loading("x", "look elsewhere"):
        torch.load(file, **options)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("place", ["timm folder", "open_clip folder", "hf folder"])
def test_weights_alone_in_pickles_are_loaded(place, tmp_path):
    from safetensors.torch import load_file

    make = {"timm folder": timm_folder, "open_clip folder": clip_folder, "hf folder": tiny_vit}
    folder = tmp_path / "model"
    folder.mkdir()
    make[place](folder)
    first = load_pretrained(str(folder), CLASSES).model.state_dict()
    for file in folder.glob("*.safetensors"):
        torch.save(load_file(file), folder / PICKLES[place])
        file.unlink()
    second = load_pretrained(str(folder), CLASSES).model.state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert [file.name for file in folder.glob("*.bin")] == [PICKLES[place]]


def with_code(folder: Path, mark: Path) -> None:
    """Puts code beside the config files of a model, which ask for it."""
    (folder / "conf.py").write_text(
        f"open({str(mark)!r}, 'w')\nfrom transformers import PretrainedConfig\n"
        "class C(PretrainedConfig): model_type = 'evil'\nclass M: pass\n"
    )
    autos = ("Config", "Model", "ModelForImageClassification", "ImageProcessor", "Processor")
    named = {f"Auto{name}": "conf.C" if name == "Config" else "conf.M" for name in autos}
    named["AutoTokenizer"] = ["conf.M", "conf.M"]
    for file in folder.glob("*.json"):
        held = json.loads(file.read_text())
        if file.name in ("config.json", "preprocessor_config.json", "tokenizer_config.json"):
            file.write_text(json.dumps({**held, "auto_map": named}))


@pytest.fixture
def asked(monkeypatch):
    """What would be asked on the terminal; the answer is yes."""
    asked = []
    monkeypatch.setattr(builtins, "input", lambda text="": asked.append(text) or "y")
    return asked


KINDS = {
    "unknown type": {"model_type": "evil"},
    "unknown processor": {"image_processor_type": "Evil"},
    "unknown tokenizer": {"tokenizer_class": "Evil"},
    "known": {},
}


@pytest.mark.parametrize("model", ["vit", "clip"])
@pytest.mark.parametrize("kind", KINDS)
def test_code_in_a_folder_of_transformers_neither_runs_nor_asks(kind, model, tmp_path, asked):
    folder = tmp_path / "model"
    folder.mkdir()
    hf_clip(folder) if model == "clip" else hf_vit(folder, ["a", "b"])
    for file in folder.glob("*.json"):
        held = json.loads(file.read_text())
        if KINDS[kind].keys() & held.keys():
            file.write_text(json.dumps({**held, **KINDS[kind]}))
    with_code(folder, tmp_path / "mark")
    if kind == "unknown type":
        expected = pytest.raises(DataError, match="brings Python code of its own")
    else:  # transformers itself knows this type of model, and perhaps what goes with it
        expected = suppress(*([] if kind == "known" else [DataError]))
    with expected:
        load_pretrained(f"hf:{folder}", CLASSES)
    assert not (tmp_path / "mark").exists()
    assert asked == []


@pytest.mark.parametrize(
    "text",
    [
        {"hf_tokenizer_name": "x", "tokenizer_kwargs": {"trust_remote_code": True}},
        {"hf_tokenizer_name": "x"},
        {"hf_model_name": "FOLDER", "hf_tokenizer_name": "x"},
        {"hf_model_name": "FOLDER", "hf_tokenizer_name": "x", "hf_model_pretrained": False},
    ],
)
def test_a_folder_of_open_clip_cannot_bring_code(text, tmp_path, asked):
    folder = tmp_path / "model"
    folder.mkdir()
    clip_folder(folder)
    text = {name: str(folder) if value == "FOLDER" else value for name, value in text.items()}
    config = clip_config()
    config["text_cfg"] |= text
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {}})
    )
    (folder / "config.json").write_text('{"model_type": "evil"}')
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "Evil"}')
    with_code(folder, tmp_path / "mark")
    with pytest.raises(DataError):
        load_pretrained(f"open_clip:{folder}", CLASSES)
    assert not (tmp_path / "mark").exists()
    assert asked == []
