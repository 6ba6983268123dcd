"""Models of transformers: `hf:ORG/NAME` or `hf:FOLDER`."""

import copy
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from gmixout.core.selection import find_head
from gmixout.data.prompts import is_imagenet
from gmixout.errors import ConfigError, DataError, needs
from gmixout.models.clip import ClipClassifier, head_weight
from gmixout.models.hub import loading
from gmixout.models.pretrained import HeadFrom, Pretrained, Request, draw_head

if TYPE_CHECKING:
    from PIL.Image import Image

DUAL = ("clip", "metaclip_2", "siglip")
"""Model types with an image tower, a text tower and a logit scale, as CLIP has them."""


def load(request: Request) -> Pretrained:
    """Load an image model of transformers, or the image tower of its CLIP.

    Models other than CLIP get the classifier that transformers puts on this kind of model, on the
    features that it pools for it (ViT: class token; DINOv2: class token and mean of the patches;
    convolutional nets: mean), with random weights unless the checkpoint has one of exactly these
    classes. Where transformers has no such classifier (DINOv3), a random one on `pooler_output`.

    Raises:
        ConfigError: There is no such model, or it cannot have such a head.
        DataError: The files are unavailable or do not fit.
    """
    with needs("transformers", "hub"):
        from transformers import (
            MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
            AutoConfig,
            AutoImageProcessor,
        )
    processors: Any = AutoImageProcessor
    source = _source(request)
    provide = (
        "download the files of its Hugging Face repository elsewhere (config.json, "
        "preprocessor_config.json, model.safetensors; for CLIP the tokenizer's, too) and give "
        "their folder: --model hf:/path/to/folder"
    )
    with loading(request.title, provide):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        if config.model_type == "timm_wrapper":
            ours = source if request.folder or request.weights else f"hf-hub:{source}"
            raise ConfigError(f"{request.name} is a model of timm: load it as timm:{ours}")
        transform = Processing(processors.from_pretrained(source, trust_remote_code=False))
        if request.image_size is not None:
            transform = transform.resized(request.image_size)
        size = transform.size
        if config.model_type in DUAL:
            model, head, made = _clip(request, source, config)
        elif type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
            model, head, made = _classifier(request, source, config)
        else:
            model, head, made = _backbone(request, source, size)
    return Pretrained(
        model=model.eval().requires_grad_(),
        head=find_head(model),
        classes=request.classes,
        head_from=head,
        transform=transform,
        size=size,
        mean=transform.mean,
        std=transform.std,
        interpolation=transform.interpolation,
        name=request.name,
        description=f"weights: {source}; {made}",
        architecture=_architecture(model, config, transform),
    )


@dataclass(frozen=True)
class Processing:
    """The checkpoint's image processor as a function of one image."""

    processor: Any

    def __call__(self, picture: "Image") -> Tensor:
        """Return an RGB image as `[3, H, W]`."""
        pixels: Tensor = self.processor(images=picture, return_tensors="pt")["pixel_values"][0]
        return pixels

    def resized(self, image_size: int) -> "Processing":
        """Return the same for images of another size; what a crop leaves out keeps its share."""
        ratio = image_size / max(self.size)
        processor = copy.deepcopy(self.processor)
        for name in ("size", "crop_size"):
            if before := getattr(processor, name, None):
                scaled = {
                    key: round(ratio * length) for key, length in dict(before).items() if length
                }
                setattr(processor, name, type(before)(**scaled))
        return Processing(processor)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the output for a square image."""
        from PIL import Image

        _, height, width = self(Image.new("RGB", (64, 64))).shape
        return height, width

    @property
    def mean(self) -> tuple[float, float, float]:
        """The mean subtracted from each channel; some processors only scale to [0, 1]."""
        return tuple(self.processor.image_mean) if self._normalizes else (0.0, 0.0, 0.0)

    @property
    def std(self) -> tuple[float, float, float]:
        """The standard deviation that each channel is divided by."""
        return tuple(self.processor.image_std) if self._normalizes else (1.0, 1.0, 1.0)

    @property
    def _normalizes(self) -> bool:
        return bool(getattr(self.processor, "do_normalize", False))

    @property
    def interpolation(self) -> str:
        """Interpolation of its resize."""
        from PIL import Image

        return Image.Resampling(self.processor.resample).name.lower()


Options: TypeAlias = dict[str, bool]
"""Options of a model's forward."""


def _options(request: Request, body: nn.Module) -> Options:
    """Return what lets a model take images of the requested size; most adapt by themselves."""
    name = "interpolate_pos_encoding"
    wanted = request.image_size is not None and name in inspect.signature(body.forward).parameters
    return {name: True} if wanted else {}


class Logits(nn.Module):
    """An image classifier of transformers that returns its logits alone.

    Args:
        body: Takes `pixel_values` and gives an object with `logits`.
        classifier: Name of the layer of the body that scores the classes.
        options: Further options of the body's forward.
    """

    def __init__(self, body: nn.Module, classifier: str, options: Options) -> None:
        super().__init__()
        self.body = body
        self._classifier = classifier
        self._options = options

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits `[B, classes]` of images `[B, 3, H, W]`."""
        logits: Tensor = self.body(pixel_values=images, **self._options).logits
        return logits

    def get_classifier(self) -> nn.Module:
        """Return the layer that scores the classes."""
        return self.body.get_submodule(self._classifier)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the backbone's activations in the backward pass instead of keeping them."""
        _checkpoint(self.body, enable)


class PooledClassifier(nn.Module):
    """A backbone of transformers, and a linear head on the features that it pools itself.

    For models without an image classifier in transformers.

    Args:
        body: Takes `pixel_values` and gives an object with `pooler_output` `[B, features]`.
        head: From these features to logits.
        options: Further options of the body's forward.
    """

    def __init__(self, body: nn.Module, head: nn.Linear, options: Options) -> None:
        super().__init__()
        self.body = body
        self.head = head
        self._options = options

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits `[B, classes]` of images `[B, 3, H, W]`."""
        pooled = self.body(pixel_values=images, **self._options).pooler_output
        logits: Tensor = self.head(pooled)
        return logits

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the backbone's activations in the backward pass instead of keeping them."""
        _checkpoint(self.body, enable)


class Tower(nn.Module):
    """The image tower of a CLIP of transformers.

    Args:
        vision_model: Takes `pixel_values` and gives an object with `pooler_output`.
        projection: To the space that images and texts share.
        options: Further options of the model's forward.
    """

    def __init__(self, vision_model: nn.Module, projection: nn.Module, options: Options) -> None:
        super().__init__()
        self.vision_model = vision_model
        self.visual_projection = projection
        self._options = options

    def forward(self, images: Tensor) -> Tensor:
        """Return the features `[B, features]` of images `[B, 3, H, W]`."""
        pooled = self.vision_model(pixel_values=images, **self._options).pooler_output
        features: Tensor = self.visual_projection(pooled)
        return features

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the tower's activations in the backward pass instead of keeping them."""
        _checkpoint(self.vision_model, enable)


def _architecture(model: nn.Module, config: Any, transform: Processing) -> dict[str, Any]:
    """Return what `huggingface_rebuild` makes the model of."""
    options: Any
    if isinstance(model, ClipClassifier):
        kind, options = "clip", model.visual._options
    elif isinstance(model, Logits):
        kind, options, config = "classifier", model._options, model.body.config
    else:
        kind, options = "backbone", model._options
    return {
        "family": "hf",
        "kind": kind,
        "config": {n: v for n, v in config.to_dict().items() if n != "_name_or_path"},
        "processor": transform.processor.to_dict(),
        "options": options,
    }


Built: TypeAlias = tuple[nn.Module, HeadFrom, str]
"""A model with its head, the origin of the head, and a description."""


def _source(request: Request) -> str:
    if request.weights is None:
        return str(request.folder or request.source)
    if request.weights.is_dir():
        return str(request.weights)
    raise ConfigError(
        f"{request.weights} is a file, and transformers loads folders: give the one that holds "
        "config.json and model.safetensors, as hf:FOLDER"
    )


def _clip(request: Request, source: str, config: Any) -> Built:
    from transformers import AutoModel, AutoTokenizer

    model, lacking = _from_pretrained(AutoModel, source)
    _refuse_gaps(request, lacking)
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    # SigLIP was trained on texts padded to full length, and pools their last position
    padding: Any = "max_length" if config.model_type == "siglip" else True
    length = config.text_config.max_position_embeddings

    def encode(texts: list[str]) -> Tensor:
        tokens = tokenizer(
            texts, padding=padding, truncation=True, max_length=length, return_tensors="pt"
        )
        output = model.get_text_features(**tokens.to(model.device))
        # a tensor before transformers 5
        features: Tensor = getattr(output, "pooler_output", output)
        return features

    weight, made = head_weight(request, model, encode, model.logit_scale)
    vision = model.vision_model
    projection = getattr(model, "visual_projection", nn.Identity())
    return (
        ClipClassifier(Tower(vision, projection, _options(request, vision)), weight),
        "random" if request.head == "random" else "zero_shot",
        made,
    )


def load_whole(request: Request) -> tuple[nn.Module, nn.Module]:
    """Load both towers of a CLIP of transformers.

    Returns:
        The whole model, and the part of it that is `ClipClassifier.visual`.

    Raises:
        DataError: The files are unavailable or do not fit.
    """
    with needs("transformers", "hub"):
        from transformers import AutoModel
    with loading(request.title, "give its folder, hf:FOLDER"):
        model, lacking = _from_pretrained(AutoModel, _source(request))
        _refuse_gaps(request, lacking)
    projection = getattr(model, "visual_projection", nn.Identity())
    return model, Tower(model.vision_model, projection, {})


def _classifier(request: Request, source: str, config: Any) -> Built:
    from transformers import AutoModelForImageClassification

    request.refuse_zero_shot()
    body, lacking = _from_pretrained(
        AutoModelForImageClassification,
        source,
        num_labels=len(request.classes),
    )
    base = f"{body.base_model_prefix}."
    _refuse_gaps(request, [key for key in lacking if key.startswith(base)])
    model = Logits(body, scoring_layer(body), _options(request, body))
    labels = [config.id2label[label] for label in range(config.num_labels)]
    classes = list(request.classes)
    same = labels == classes or (is_imagenet(labels) and is_imagenet(classes))
    if request.head is None and same and not lacking:
        return model, "pretrained", "the pretrained classifier"
    draw_head(model.get_classifier(), request.seed)
    made = f"random head (seed {request.seed}) on what {type(body).__name__} pools"
    return model, "random", made


def scoring_layer(body: Any) -> str:
    """Return the name of the layer that scores the classes in a classifier of transformers."""
    base = f"{body.base_model_prefix}."
    scoring: list[str] = [
        name
        for name, layer in body.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and not name.startswith(base)
    ]
    return scoring[-1]


@torch.no_grad()
def _backbone(request: Request, source: str, size: tuple[int, int]) -> Built:
    from transformers import AutoModel

    request.refuse_zero_shot()
    body, lacking = _from_pretrained(AutoModel, source)
    _refuse_gaps(request, lacking)
    options = _options(request, body)
    output = body.eval()(pixel_values=torch.zeros(1, 3, *size), **options)
    pooled = getattr(output, "pooler_output", None)
    if pooled is None or pooled.ndim != 2:
        raise ConfigError(
            f"{request.name} ({type(body).__name__}) pools no features to put a head on, and is "
            f"not a known CLIP-like model: {', '.join(DUAL)}"
        )
    model = PooledClassifier(body, nn.Linear(pooled.shape[1], len(request.classes)), options)
    draw_head(model.head, request.seed)
    return model, "random", f"random head (seed {request.seed}) on pooler_output"


def _from_pretrained(auto: Any, source: str, **options: Any) -> tuple[Any, list[str]]:
    """Return a float32 model, and its tensors that the checkpoint lacks or shapes differently."""
    model, report = auto.from_pretrained(
        source,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        trust_remote_code=False,
        weights_only=True,
        **options,
    )
    mismatched = [key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]]
    return model.float(), sorted({*report["missing_keys"], *mismatched})


def _refuse_gaps(request: Request, lacking: list[str]) -> None:
    """Refuse a checkpoint that would leave layers at random values.

    Raises:
        DataError: It lacks something.
    """
    if lacking:
        raise DataError(
            f"the checkpoint of {request.name} does not fit its config.json: it lacks "
            f"{len(lacking)} tensors, {lacking[0]} among them, or has them in other shapes"
        )


def _checkpoint(body: Any, enable: bool) -> None:
    action = "enable" if enable else "disable"
    # "activation" from 5.23 on, which warns of the older name
    newer = getattr(body, f"activation_checkpointing_{action}", None)
    (newer or getattr(body, f"gradient_checkpointing_{action}"))()
