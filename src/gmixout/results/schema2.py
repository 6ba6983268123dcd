"""Records of schema 2, whose fields lay side by side, in the layout of today.

The one place that reads them. `benchmarks/rewrite_records.py` rewrites files of them.
"""

import ast
from typing import Any

_TRAINING = (
    "lr", "head_lr", "seed", "step", "steps", "batch_size", "trainable", "seconds",
    "step_seconds", "peak_memory_bytes",
)  # fmt: skip
_SETS = ("accuracy", "nll", "ece", "examples")
_AS_THEY_ARE = ("time", "run", "summary", "parameters", "pool", "members", "notes")


def upgraded(old: dict[str, Any]) -> dict[str, Any]:
    """Return the values of schema 3 for a record of schema 2.

    Raises:
        Exception: Of any kind where it is not a whole one.
    """

    def some(names: tuple[str, ...]) -> dict[str, Any]:
        return {name: old[name] for name in names if name in old}

    if any(old[kind].keys() != old["accuracy"].keys() for kind in _SETS):
        raise ValueError(f"{', '.join(_SETS)} are not of the same sets")
    options = dict(old["options"])
    alpha = options.pop("alpha", None)
    settings = {"settings": old["training"], "loss": old["train_loss"]}
    figures = old.get("figures", {})
    return {
        "schema": 3,
        **some(_AS_THEY_ARE),
        "benchmark": {
            "name": old["benchmark"],
            "parts": _parts(old["benchmark"]),
            **some(("metric", "digests")),
        },
        "method": {"name": old["method"], "options": options, "alpha": alpha},
        "training": some(_TRAINING) | settings if old["steps"] else None,
        "scores": {
            name: {kind: old[kind][name] for kind in _SETS} | {"figures": figures.get(name, {})}
            for name in old["accuracy"]
        },
        "machine": some(("device", "threads", "versions", "git")),
    }


def _parts(name: str) -> dict[str, Any]:
    """Return the values in "NAME(option='text') with MODEL, corruptions=common of 0.1"."""
    source, found, rest = name.rpartition(" with ")
    if not found:
        return {}
    model, *others = rest.split(", ")
    call = ast.parse(source, mode="eval").body
    options = call.keywords if isinstance(call, ast.Call) else []
    parts = {"data": source.partition("(")[0]}
    parts |= {str(each.arg): ast.literal_eval(each.value) for each in options}
    parts |= {"model": model} | dict(each.split("=", 1) for each in others)
    kinds, of, share = parts.get("corruptions", "").partition(" of ")
    return parts | ({"corruptions": kinds, "corruption_share": float(share)} if of else {})
