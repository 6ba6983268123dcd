import numpy as np
import pytest

from gmixout.evaluation.records import Record, RecordLog

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


def _record(method, lr, alpha, percent, seed, noise) -> Record:
    masked = method in ("gmixout", "random_mask")
    test, corrupted, fonts = (value / 100 for value in percent)
    accuracy = {"id_val": test - 0.004, "id_test": test}
    accuracy |= {f"corrupted/{k}": corrupted + 0.08 * (2 - k) for k in (1, 2, 3)} | {"fonts": fonts}
    trained = method != "zero_shot"
    return Record(
        time=f"2026-11-21T02:0{seed}:00Z",
        run=f"{'full' if method == 'wise_ft' else method}-{lr}-{seed}",
        benchmark="digits",
        method=method,
        options={} if alpha is None else {"alpha": alpha},
        lr=lr,
        head_lr=1e-3 if trained else None,
        seed=seed,
        steps=300 if trained else 0,
        batch_size=32,
        accuracy={k: round(v + n, 4) for (k, v), n in zip(accuracy.items(), noise, strict=True)},
        trainable=(45_000 if masked else 450_000) if trained else 0,
        parameters=450_000,
        seconds=(3.1 if masked else 4.2) if trained else 0.0,
        step_seconds=(0.0102 if masked else 0.0139) if trained else None,
        peak_memory_bytes=(12_300_000 if masked else 21_800_000) if trained else None,
        device="cpu",
        threads=2,
        versions={"python": "3.12.1", "torch": "2.15.0", "gmixout": "0.1.0"},
        git="abc1234",
    )


def make_records(seeds=3) -> list[Record]:
    """Three seeds of a comparison as a prototype of it came out, with its noise."""
    generator = np.random.default_rng(0)
    records = []
    for seed in range(seeds):
        shared = generator.normal(0, 0.002, 6)  # a seed's data order is common to its methods
        for method, lr, alpha, *percent in RESULTS:
            if method == "zero_shot" and seed > 0:
                continue
            noise = shared + generator.normal(0, 0.0015, 6)
            noise *= method != "zero_shot"
            records.append(_record(method, lr, alpha, percent, seed, noise))
    return records


@pytest.fixture(scope="session")
def records() -> list[Record]:
    return make_records()


@pytest.fixture
def run_folder(tmp_path, records):
    """A run folder as `gmixout compare` leaves it, without its report."""
    for record in records[:21]:
        RecordLog(tmp_path / "records.jsonl").append(record)
    (tmp_path / "config.yaml").write_text(CONFIG)
    return tmp_path
