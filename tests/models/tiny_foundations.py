"""Saved models of each library, tiny and with random weights, loaded as real ones are."""

import json
import logging
from pathlib import Path

import pytest
import torch

CLASSES = ["dog", "elephant", "alarm_clock"]
WORDS = ["a", "photo", "of", "the", "bad", "in", "wild", "dog", "elephant", "alarm", "clock", "."]


def open_clip():
    return pytest.importorskip("open_clip")


def clip_config(**changes):
    return {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 16
        },
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2,
                     "layers": 1},
        **changes,
    }  # fmt: skip


def add_tiny_clip(folder: Path, monkeypatch, **changes) -> None:
    """Makes open_clip know a model tiny-clip, for one test."""
    factory = pytest.importorskip("open_clip.factory")
    monkeypatch.setitem(factory._MODEL_CONFIGS, "tiny-clip", clip_config(**changes))


def new_clip(**changes):
    """A CLIP of open_clip whose features differ between images, as those at its start hardly do."""
    model = pytest.importorskip("open_clip.model").CLIP(**clip_config(**changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    return model


def clip_file(folder: Path, **changes) -> Path:
    from safetensors.torch import save_file

    file = folder / "open_clip_model.safetensors"
    save_file(new_clip(**changes).state_dict(), file)
    return file


def clip_folder(folder: Path, **preprocessing) -> Path:
    clip_file(folder)
    config = {"model_cfg": clip_config(), "preprocess_cfg": preprocessing}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def timm_folder(folder: Path, classes: int = 5, **config) -> Path:
    timm = pytest.importorskip("timm")
    args = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=classes, **args)
    timm.models.save_for_hf(model, folder, model_args=args, model_config=config or None)
    return folder


def timm_file(folder: Path, name: str = "test_vit", classes: int = 5) -> Path:
    from safetensors.torch import save_file

    timm = pytest.importorskip("timm")
    file = folder / f"{name}.safetensors"
    save_file(timm.create_model(name, num_classes=classes).state_dict(), file)
    return file


def _save(model, folder: Path) -> None:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    model.save_pretrained(folder)


def processor(folder: Path, **options) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.BitImageProcessor(
        size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}, **options
    ).save_pretrained(folder)


def tokenizer(folder: Path) -> None:
    """A word a token; the last one ends the text, which is what CLIP pools."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = {word: number for number, word in enumerate(["<pad>", "<end>", "<unk>", *WORDS])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A <end>", special_tokens=[("<end>", 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<end>", unk_token="<unk>"
    ).save_pretrained(folder)


def hf_dinov2(folder: Path) -> Path:
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8
    )
    _save(transformers.Dinov2Model(config), folder)
    processor(folder)
    return folder


def hf_dinov3(folder: Path) -> Path:
    """A kind of model that transformers has no image classifier for."""
    transformers = pytest.importorskip("transformers")
    config = transformers.DINOv3ViTConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        image_size=32, patch_size=8,
    )  # fmt: skip
    _save(transformers.DINOv3ViTModel(config), folder)
    processor(folder)
    return folder


def hf_vit(folder: Path, labels: list[str], layers: int = 1) -> Path:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=layers, num_attention_heads=2,
        image_size=32, patch_size=8, id2label=dict(enumerate(labels)),
    )  # fmt: skip
    _save(transformers.ViTForImageClassification(config), folder)
    processor(folder)
    return folder


def hf_clip(folder: Path, kind: str = "CLIP") -> Path:
    transformers = pytest.importorskip("transformers")
    size = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }  # fmt: skip
    text = {**size, "vocab_size": 20, "max_position_embeddings": 12, "eos_token_id": 1,
            "bos_token_id": 0, "pad_token_id": 0}  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(
        text_config=text, vision_config={**size, "image_size": 32, "patch_size": 16},
        **({"projection_dim": 8} if kind == "CLIP" else {}),
    )  # fmt: skip
    model = getattr(transformers, f"{kind}Model")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    _save(model, folder)
    processor(folder)
    tokenizer(folder)
    return folder


FOLDERS = {
    "timm": timm_folder,
    "open_clip": clip_folder,
    "hf dinov2": hf_dinov2,
    "hf dinov3": hf_dinov3,
    "hf vit": lambda folder: hf_vit(folder, ["a", "b"]),
    "hf clip": hf_clip,
    "hf siglip": lambda folder: hf_clip(folder, "Siglip"),
}
"""A saved model of each kind."""
