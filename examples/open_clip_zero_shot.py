"""open_clip: the image tower under a zero-shot head from text; the text tower stays as it was.

    python examples/open_clip_zero_shot.py         # a tiny CLIP on scikit-learn's digits, seconds
    python examples/open_clip_zero_shot.py --model ViT-B-16/openai --out runs/clip

Stop it whenever you like: the same command goes on from the last epoch, to the same weights.
"""

import argparse
from pathlib import Path

import open_clip
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, interpolate, normalize

import gmixout

parser = argparse.ArgumentParser()
parser.add_argument("--model", help="ARCHITECTURE/WEIGHTS, of open_clip.list_pretrained()")
parser.add_argument("--out", default="runs/open_clip")
args = parser.parse_args()
torch.manual_seed(0)
checkpoint = Path(args.out, "checkpoint.pt")
checkpoint.parent.mkdir(parents=True, exist_ok=True)

if args.model:
    clip, _, _ = open_clip.create_model_and_transforms(*args.model.split("/"))
    tokenizer = open_clip.get_tokenizer(args.model.split("/")[0])
else:
    vision = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
    text = {"width": 32, "layers": 1, "heads": 2, "context_length": 16}
    clip = open_clip.CLIP(embed_dim=32, vision_cfg=vision, text_cfg=text)
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
clip.eval()
digits, labels = load_digits(return_X_y=True)
pixels = torch.tensor(digits, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1
pixels = interpolate(pixels, clip.visual.image_size).expand(-1, 3, -1, -1)
labels = torch.tensor(labels)


class Classifier(nn.Module):
    """Cosine similarity of an image to each class, times CLIP's temperature."""

    def __init__(self, names: list[str], prompts: list) -> None:
        super().__init__()
        self.visual = clip.visual
        weight = open_clip.build_zero_shot_classifier(clip, tokenizer, names, prompts)
        self.head = nn.Linear(*weight.shape, bias=False)
        self.head.weight.data = (clip.logit_scale.exp() * weight.T).detach().contiguous()

    def forward(self, images):
        """Return the logits of each class, `[B, classes]`."""
        return self.head(normalize(self.visual(images), dim=-1))


names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
prompts = [lambda name: f"a photo of the number {name}.", lambda name: f"the digit {name}."]
model = Classifier(names, prompts)
masked = gmixout.attach(model, gmixout.GMixout())  # one
optimizer = masked.bind(torch.optim.AdamW(masked.param_groups(lr=3e-3, weight_decay=0.1)))  # two

done = 0
if checkpoint.exists():
    saved = torch.load(checkpoint, weights_only=True)
    done = saved["epochs"]
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
for epoch in range(done, 3):
    order = torch.randperm(1400, generator=torch.Generator().manual_seed(epoch))
    for chosen in order.split(32):
        cross_entropy(model(pixels[chosen]), labels[chosen]).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.inference_mode():
        accuracy = (model(pixels[1400:]).argmax(-1) == labels[1400:]).float().mean()
    print(f"epoch {epoch}: accuracy {accuracy:.3f}")
    states = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save({"epochs": epoch + 1, **states}, f"{checkpoint}.new")
    Path(f"{checkpoint}.new").replace(checkpoint)  # whole, or as it was

masked.detach()  # `clip` has the finetuned image tower now, and its text tower
torch.save(clip.state_dict(), f"{args.out}/final.pt")  # open_clip's own keys: --pretrained takes it
torch.save(model.head.state_dict(), f"{args.out}/head.pt")
