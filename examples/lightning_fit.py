"""Lightning: attach in `__init__`, bind in `configure_optimizers`.

    python examples/lightning_fit.py               # a tiny ViT on scikit-learn's digits, seconds
    python examples/lightning_fit.py --model vit_base_patch16_224.augreg_in21k --out runs/vit

Stop it whenever you like: the same command goes on from the last checkpoint, to the same weights.
"""

import argparse
from pathlib import Path

import lightning
import timm
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy, interpolate
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import gmixout

parser = argparse.ArgumentParser()
parser.add_argument("--model", help="a name of timm's, with its pretrained weights")
parser.add_argument("--out", default="runs/lightning_fit")
args = parser.parse_args()
lightning.seed_everything(0)


class Classifier(lightning.LightningModule):
    """An image classifier of timm."""

    def __init__(self) -> None:
        super().__init__()
        name = args.model or "test_vit"
        sizes = {} if args.model else {"img_size": 32}
        self.model = timm.create_model(name, pretrained=bool(args.model), num_classes=10, **sizes)
        self.masked = gmixout.attach(self.model, gmixout.GMixout())  # one

    def configure_optimizers(self):
        """Return the optimizer and its schedule."""
        groups = self.masked.param_groups(lr=3e-3, weight_decay=0.01)
        optimizer = self.masked.bind(torch.optim.AdamW(groups))  # two
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=EPOCHS)
        return [optimizer], [schedule]

    def training_step(self, batch, index):
        """Return the loss of a batch."""
        return cross_entropy(self.model(batch[0]), batch[1])

    def validation_step(self, batch, index):
        """Log the accuracy."""
        hits = self.model(batch[0]).argmax(-1) == batch[1]
        self.log("accuracy", hits.float().mean(), prog_bar=True)


EPOCHS = 4
digits, labels = load_digits(return_X_y=True)
module = Classifier()
size = module.model.pretrained_cfg["input_size"][-1] if args.model else 32
pixels = interpolate(torch.tensor(digits, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1, size)
data = TensorDataset(pixels.expand(-1, 3, -1, -1), torch.tensor(labels))
train, val = (torch.utils.data.Subset(data, r) for r in (range(1400), range(1400, 1797)))

trainer = lightning.Trainer(
    max_epochs=EPOCHS,
    callbacks=[ModelCheckpoint(args.out, save_last=True)],
    logger=False,
    default_root_dir=args.out,
)
# an order that follows from the epoch alone: Lightning does not save the state of a shuffle
loader = DataLoader(train, 32, sampler=DistributedSampler(train, num_replicas=1, rank=0))
last = Path(args.out, "last.ckpt")
trainer.fit(module, loader, DataLoader(val, 256), ckpt_path=last if last.exists() else None)
torch.save(module.masked.detach().state_dict(), f"{args.out}/final.pt")  # timm's own keys
