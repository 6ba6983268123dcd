"""Records as a comparison leaves them, made without one."""

import json

import numpy as np
from records import changed, sets

from gmixout.evaluation.metrics import Scores
from gmixout.methods import METHODS
from gmixout.results import BenchmarkFacts, Machine, MethodFacts, Record, Training

# method, lr, alpha, and per cent of: ID test, corrupted digits, held-out fonts
RESULTS = [
    ("zero_shot", None, None, 63.4, 53.6, 78.1),
    ("full", 3e-4, None, 94.8, 72.4, 68.9),
    ("full", 1e-3, None, 95.5, 71.8, 63.0),
    ("full", 3e-3, None, 94.8, 66.3, 38.1),
    *[("wise_ft", 1e-3, a, i, c, f) for a, i, c, f in [
        (0.1, 68.5, 56.9, 78.3), (0.3, 82.2, 64.5, 77.2), (0.5, 91.6, 70.0, 74.1),
        (0.7, 94.3, 71.7, 69.6), (0.8, 95.0, 72.2, 67.1), (0.9, 95.3, 72.2, 65.1),
    ]],
    *[("wise_ft", 3e-4, a, i, c, f) for a, i, c, f in [
        (0.1, 66.9, 55.8, 78.3), (0.3, 79.0, 62.7, 77.6), (0.5, 89.1, 68.8, 75.3),
        (0.7, 93.2, 71.6, 72.6), (0.8, 94.0, 72.1, 71.3), (0.9, 94.5, 72.4, 70.1),
    ]],
    ("random_mask", 3e-3, None, 94.9, 72.4, 68.8),
    ("random_mask", 1e-2, None, 95.5, 71.9, 62.2),
    ("mixout", 3e-4, None, 93.8, 72.0, 70.2),
    ("mixout", 1e-3, None, 95.3, 73.1, 67.4),
    ("gmixout", 1e-3, None, 94.9, 73.1, 68.5),
    ("gmixout", 2e-3, None, 95.5, 72.9, 66.3),
    ("gmixout", 3e-3, None, 95.6, 72.8, 64.5),
]  # fmt: skip

CONFIG = """\
benchmark: digits
methods: [zero_shot, full, wise_ft, random_mask, mixout, gmixout]
seeds: [0, 1, 2]
steps: 300
batch_size: 32
head_lr: 0.001
"""

STEPS = 300
STYLES = {name: kind.style for name, kind in METHODS.items()}


def make_record(method, lr, alpha, percent, seed, noise=(0.0,) * 6, options=None, step=None):
    masked = method in ("gmixout", "random_mask")
    test, corrupted, fonts = (value / 100 for value in percent)
    accuracy = {"id_val": test - 0.004, "id_test": test}
    accuracy |= {f"corrupted/{k}": corrupted + 0.08 * (2 - k) for k in (1, 2, 3)} | {"fonts": fonts}
    accuracy = {k: round(v + n, 4) for (k, v), n in zip(accuracy.items(), noise, strict=True)}
    shared = {"wise_ft": "full", "gmixout_wise_ft": "gmixout"}.get(method, method)
    options = options or {}
    settings = sorted(options.items())
    step = STEPS if step is None else step
    return Record(
        time=f"2026-11-21T02:0{seed}:00Z",
        run=f"{shared}-{lr}-{seed}{settings or ''}",
        benchmark=BenchmarkFacts(name="digits"),
        method=MethodFacts(name=method, options=options, alpha=alpha),
        training=Training(
            lr=lr,
            head_lr=1e-3,
            seed=seed,
            step=step,
            steps=STEPS,
            batch_size=32,
            settings={"schedule": "cosine"},
            loss=1.0 - 0.8 * step / STEPS,
            trainable=45_000 if masked else 450_000,
            seconds=3.1 if masked else 4.2,
            step_seconds=0.0102 if masked else 0.0139,
            peak_memory_bytes=12_300_000 if masked else 21_800_000,
        )
        if method != "zero_shot"
        else None,
        scores={
            name: Scores(
                accuracy=value,
                nll=round(2.5 * (1 - value), 4),
                ece=round(0.3 * (1 - value), 4),
                examples=1000,
            )
            for name, value in accuracy.items()
        },
        parameters=450_000,
        machine=Machine(
            device="cpu",
            threads=2,
            versions={"python": "3.12.1", "torch": "2.15.0", "gmixout": "0.1.0"},
            git="abc1234",
        ),
    )


def make_records(results=RESULTS, seeds=3) -> list[Record]:
    """A comparison as a prototype of it came out, with its noise."""
    generator = np.random.default_rng(0)
    records = []
    for seed in range(seeds):
        shared = generator.normal(0, 0.002, 6)  # a seed's data order is common to its methods
        for method, lr, alpha, *percent in results:
            if method == "zero_shot" and seed > 0:
                continue
            noise = shared + generator.normal(0, 0.0015, 6)
            noise *= method != "zero_shot"
            records.append(make_record(method, lr, alpha, percent, seed, noise))
    return records


def all_methods() -> list[tuple]:
    """Results of every known method: those above, and the others somewhere beside them."""
    known = {method for method, *_ in RESULTS}
    results = list(RESULTS)
    for place, method in enumerate(method for method in METHODS if method not in known):
        shift = 0.4 * place - 2
        if method.endswith("_soup"):
            results.append((method, None, None, 95.2, 73 + shift / 4, 68 + shift))
        elif method == "gmixout_wise_ft":
            results += [
                (method, 2e-3, a, 63.4 + 32 * a, 53.6 + 20 * a, 79 - 12 * a) for a in (0.5, 0.9)
            ]
        else:
            results += [
                (method, 3e-4, None, 94.0 + shift / 8, 72 + shift / 4, 70 + shift / 2),
                (method, 1e-3, None, 95.2 + shift / 8, 72 + shift / 4, 66 + shift / 2),
            ]
    return results


def make_sweep() -> list[Record]:
    """Two options of GMixout on a grid, two rates and two seeds each; and one of LoRA."""
    records = []
    for seed in (0, 1):
        for lr in (1e-3, 2e-3):
            for mask in (0.5, 0.9):
                for every in (1, 10, None):
                    options = {"mask_rate": mask, "resample_every": every, "structure": "row"}
                    percent = (
                        95 + 100 * lr + mask,
                        70 + 2 * mask - 500 * lr,
                        65 + (every or 20) / 10 + seed,
                    )
                    records.append(make_record("gmixout", lr, None, percent, seed, options=options))
            for rank in (4, 16, 32):
                percent = (94 + 100 * lr + rank / 16, 70.0, 66.0 + seed)
                options = {"rank": rank}
                records.append(make_record("lora", lr, None, percent, seed, options=options))
    return records


def on_the_way(records) -> list[Record]:
    """The records of trained models, each also at a third and at two thirds of its training."""
    early = []
    for record in records:
        if record.training is None or record.alpha is not None or record.lr is None:
            continue
        for step in (100, 200):
            part = 0.8 + 0.2 * step / STEPS
            accuracy = {n: round(part * value, 4) for n, value in sets(record, "accuracy").items()}
            loss = 1.0 - 0.8 * step / STEPS
            early.append(changed(record, step=step, accuracy=accuracy, loss=loss))
    return [*early, *records]


def on_macro_f1(records) -> list[Record]:
    """The same on a benchmark whose official metric is macro F1, with macro recall beside it."""
    return [
        changed(
            record,
            metric="macro_f1",
            figures={
                name: {"macro_f1": round(0.6 * value, 4), "macro_recall": round(0.7 * value, 4)}
                for name, value in sets(record, "accuracy").items()
            },
            notes=["train has no image of 3 of 182 classes"],
        )
        for record in records
    ]


def without_shifts(records) -> list[Record]:
    """The same on a benchmark with nothing but its own domain."""
    return [
        changed(record, scores={name: record.scores[name] for name in ("id_val", "id_test")})
        for record in records
    ]


def long_tailed(records) -> list[Record]:
    """The same on a benchmark like ImageNet-LT, with few-shot accuracy where fonts were."""
    return [
        changed(
            own,
            figures={"id_test": {"many_shot": 0.9, "few_shot": record.scores["fonts"].accuracy}},
        )
        for record, own in zip(records, without_shifts(records), strict=True)
    ]


def with_corruptions(records) -> list[Record]:
    """The same with fifteen kinds of corruption as shifts, and their mean corruption error."""
    kinds = [f"kind_{number}" for number in range(15)]
    return [
        changed(
            own,
            summary={"mce_alexnet": round(1 - record.scores["fonts"].accuracy, 4)},
            scores=own.scores | {f"{kind}/1": record.scores["fonts"] for kind in kinds},
        )
        for record, own in zip(records, without_shifts(records), strict=True)
    ]


SOURCES = ("photo", "painting", "cartoon")


def on_sources(records) -> list[Record]:
    """The same with each of several domains as the source, each a little harder than the last."""
    return [
        changed(
            record,
            benchmark=f"pacs(train_domain={source})",
            parts={"data": "pacs", "train_domain": source},
            accuracy={
                name: round(max(0, value - 0.1 * place), 4)
                for name, value in sets(record, "accuracy").items()
            },
        )
        for place, source in enumerate(SOURCES)
        for record in records
    ]


def write_folder(folder, records, config=CONFIG):
    """A run folder as `gmixout compare` leaves it, without its report."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(record.to_json() + "\n" for record in records)
    (folder / "records.jsonl").write_text(lines)
    if config is not None:
        (folder / "config.yaml").write_text(config)
    return folder


EVIL = "</script><b>bold</b><script>alert(1)</script>"


def poisoned(records) -> list[Record]:
    """The same with markup in every name that somebody else may choose."""

    fonts = "fonts" + EVIL.replace("/", "\\")
    return [
        changed(
            record,
            benchmark=EVIL,
            method=EVIL if record.method.name == "mixout" else record.method.name,
            options={**record.method.options, EVIL: EVIL},
            versions={EVIL: EVIL},
            git=EVIL,
            device=EVIL,
            scores={
                fonts if name == "fonts" else name: each for name, each in record.scores.items()
            },
        )
        for record in records
    ]


def data_of(text: str) -> dict:
    """What the page's plots are drawn from."""
    start = text.index('id="data">') + len('id="data">')
    return json.loads(text[start : text.index("</script>", start)])
