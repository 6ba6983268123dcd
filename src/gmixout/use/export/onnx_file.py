"""An ONNX file."""

import contextlib
import io
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gmixout.errors import StateError, needs
from gmixout.use.classifier import Classifier
from gmixout.use.export.torch_program import (
    about_answers,
    batches_of,
    check_answers,
    program_of,
)

_LARGEST_FILE = 2**31 - 2**20
"""Bytes that fit into one file of protocol buffers."""


def write(classifier: Classifier, place: Path, examples: Tensor, pretrained: str | None) -> str:
    """Write an ONNX file for any number of images, and check it with onnxruntime.

    Raises:
        ConfigError: onnx, onnxscript or onnxruntime is not installed.
        StateError: torch cannot trace the model, it is too large, or the file computes something
            else.
    """
    del pretrained
    with needs("onnxruntime", "export", "to=onnx"):
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    size = sum(each.numel() * each.element_size() for each in classifier.state_dict().values())
    if size > _LARGEST_FILE:
        raise StateError(f"the weights have {size:,} bytes, and an ONNX file holds 2 GB at most")
    program = program_of(classifier, examples)
    names = [*classifier.task.answers]
    with _quiet():
        made: Any = torch.onnx.export(
            program,
            input_names=["images"],
            output_names=names,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    made.model.metadata_props.update(about_answers(classifier))
    made.save(place, external_data=False)
    session = onnxruntime.InferenceSession(place, providers=["CPUExecutionProvider"])
    for images in batches_of(examples):
        found = session.run(names, {"images": images.numpy()})
        check_answers(classifier, images, map(torch.from_numpy, found))
    return (
        "```python\nimport json\nimport onnxruntime\n\n"
        'session = onnxruntime.InferenceSession("FILE")\n'
        'classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])\n'
        f"{', '.join(names)} = session.run(None, "
        '{"images": images})  # [B, 3, H, W], float32\n```'
    )


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep the exporter's remarks on its own passes from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
