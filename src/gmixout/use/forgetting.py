"""What finetuning made a CLIP forget: zero-shot accuracy on classes that it never saw."""

import copy

import torch
from torch import nn

from gmixout.data.prompts import class_texts
from gmixout.data.source import ImageBenchmark
from gmixout.errors import ConfigError, DataError, StateError
from gmixout.evaluation.metrics import predict
from gmixout.models import load_pretrained
from gmixout.models.clip import ClipClassifier
from gmixout.results.other_classes import OtherClasses
from gmixout.tasks import DEFAULT_TASK
from gmixout.use.classifier import Classifier
from gmixout.use.export.clip_towers import pretrained_name, pretrained_needed


def measure_other_classes(
    classifier: Classifier,
    tests: ImageBenchmark,
    data: str,
    templates: tuple[str, ...],
    pretrained: str | None = None,
    device: torch.device | str = "cpu",
    num_workers: int | None = None,
) -> OtherClasses:
    """Return zero-shot accuracy on other classes before and after finetuning.

    The pretrained text tower makes the head for these classes, as for a zero-shot model. Before is
    the pretrained image tower, after the finetuned one. Classes that finetuning saw are left out.

    Args:
        classifier: A finetuned CLIP.
        tests: Images of other classes, all sets of which are scored together.
        data: Name of the data.
        templates: Prompts of the zero-shot head.
        pretrained: Where the pretrained model is now; by default where it was.
        device: Where to compute.
        num_workers: Processes that load images.

    Raises:
        ConfigError: The model has no text tower, or the data another task.
        DataError: There are fewer than two other classes with images, or the pretrained model is
            unavailable.
        StateError: The image tower is not that of the pretrained model.
    """
    if not isinstance(classifier.model, ClipClassifier):
        raise ConfigError(
            "accuracy on other classes needs a model with a text tower, a CLIP of open_clip or "
            "transformers: this one knows its own classes alone"
        )
    if tests.task != DEFAULT_TASK:
        raise ConfigError(
            f"accuracy on other classes needs one class an image, and {data} is {tests.task.name} "
            f"({tests.task.title})"
        )
    seen = {text.casefold() for text in class_texts(classifier.classes)}
    texts = [text.casefold() for text in class_texts(tests.classes)]
    sets = [images for images in tests.tests.values() if len(images) and images.space is None]
    present = sorted({label for images in sets for label in images.labels.tolist()})
    others = [label for label in present if texts[label] not in seen]
    if len(others) < 2:
        raise DataError(
            f"{data} has {len(others)} classes with images that finetuning did not see, of "
            f"{len(present)}: accuracy on other classes needs two"
        )
    name = pretrained_name(classifier, pretrained)
    classes = [tests.classes[label] for label in others]
    size = classifier.size[0] if classifier.size else None
    with pretrained_needed():
        start = load_pretrained(
            name, classes, "zero_shot", templates, device=device, image_size=size
        )
    before: nn.Module = start.model
    after = copy.deepcopy(before)
    try:
        after.visual.load_state_dict(classifier.model.visual.state_dict())  # type: ignore[union-attr]
    except RuntimeError as error:
        raise StateError(f"the image tower does not fit {name}: {error}") from error
    hits, count = [0, 0], 0
    places = {label: place for place, label in enumerate(others)}
    relabelled = [places.get(label, 0) for label in range(len(tests.classes))]
    for images in sets:
        chosen = torch.isin(images.labels, torch.tensor(others)).nonzero().flatten()
        if not len(chosen):
            continue
        part = images.subset(chosen).relabelled(relabelled).transformed(start.transform)
        count += len(part)
        for number, model in enumerate((before, after)):
            logits, labels = predict(model.to(device), part, num_workers=num_workers)
            hits[number] += int((logits.argmax(1) == labels).sum())
    return OtherClasses(
        data=data,
        classes=len(others),
        images=count,
        before=hits[0] / count,
        after=hits[1] / count,
    )
