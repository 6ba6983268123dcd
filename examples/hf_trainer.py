"""Hugging Face Trainer: make its optimizer from the process, and pass it in.

    python examples/hf_trainer.py                  # a tiny ViT on scikit-learn's digits, seconds
    python examples/hf_trainer.py --model google/vit-base-patch16-224-in21k --out runs/vit

Stop it whenever you like: the same command goes on from the last checkpoint, to the same weights.
"""

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from transformers import (
    AutoModelForImageClassification,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

import gmixout

parser = argparse.ArgumentParser()
parser.add_argument("--model", help="a name on the hub, or a folder")
parser.add_argument("--out", default="runs/hf_trainer")
args = parser.parse_args()
set_seed(0)

# The checkpoint is read here: in transformers 5.24 a resuming Trainer does not find the keys of a
# ViT, DeiT, DINOv2 or Swin again, and goes on without them (with or without gmixout).
last = get_last_checkpoint(args.out) if Path(args.out).is_dir() else None
if source := last or args.model:
    model = AutoModelForImageClassification.from_pretrained(
        source, num_labels=10, ignore_mismatched_sizes=True
    )
else:
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = ViTForImageClassification(
        ViTConfig(**sizes, intermediate_size=128, image_size=32, patch_size=8, num_labels=10)
    )

# The data: 1,797 handwritten digits, in the model's size.
digits, labels = load_digits(return_X_y=True)
pixels = torch.tensor(digits, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1
pixels = torch.nn.functional.interpolate(pixels, model.config.image_size).expand(-1, 3, -1, -1)
examples = [{"pixel_values": p, "labels": y} for p, y in zip(pixels, labels, strict=True)]

masked = gmixout.attach(model, gmixout.GMixout())  # one
optimizer = masked.bind(torch.optim.AdamW(masked.param_groups(lr=3e-3, weight_decay=0.01)))  # two

trainer = Trainer(
    model,
    TrainingArguments(
        args.out,
        max_steps=60,
        per_device_train_batch_size=32,
        gradient_accumulation_steps=2,  # masks count optimizer steps
        lr_scheduler_type="cosine",
        warmup_steps=6,
        eval_strategy="steps",
        eval_steps=20,
        save_steps=20,
        metric_for_best_model="accuracy",
        report_to=[],
    ),
    train_dataset=examples[:1400],
    eval_dataset=examples[1400:],
    compute_metrics=lambda e: {"accuracy": (e.predictions.argmax(-1) == e.label_ids).mean()},
    optimizers=(optimizer, None),  # Trainer makes the schedule
)
trainer.train(resume_from_checkpoint=last)
print(trainer.evaluate(), "best:", trainer.state.best_model_checkpoint)
masked.detach().save_pretrained(f"{args.out}/final")  # transformers alone reads it
