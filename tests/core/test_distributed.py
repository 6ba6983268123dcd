"""Two processes under DistributedDataParallel, and the same training in one."""

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tiny import PlainNet, batches, loss_of

import gmixout
from gmixout import GMixout
from gmixout.errors import AttachError

CONFIGS = {
    "all layers": GMixout(mask_rate=0.5, resample_every=2, structure="element"),
    "bands": GMixout(0.5, resample_every=2, structure="longer_side", group_size=None),
    "random depth": GMixout(mask_rate=0.5, resample_every=2, mean_start_depth=0.6),
    "bounded depth": GMixout(
        mask_rate=0.5, resample_every=2, mean_start_depth=0.7, min_start_depth=0.5
    ),
    "masked biases": GMixout(mask_rate=0.5, resample_every=2, biases="masked"),
    "held biases": GMixout(mask_rate=0.5, resample_every=2, biases="held"),
}
UNEQUAL = {
    "rows": GMixout(mask_rate=0.5, resample_every=2),
    "rescaled": gmixout.mixout(0.5, resample_every=2),
    "pulled": GMixout(mask_rate=0.5, resample_every=2, anchor_pull=0.2),
    "one mask": gmixout.random_mask(0.5),
}
"""Settings for ranks whose models start from other weights: DDP hands on those of rank 0."""
# An even number: at the end a mask is drawn that no rank has sent to the other yet.
STEPS = 6


def start(config, seed=0):
    torch.manual_seed(seed)
    model = PlainNet().double()
    masked = gmixout.attach(model, config)
    optimizer = masked.bind(torch.optim.AdamW(masked.param_groups(lr=1e-3), eps=1e-3))
    return model, masked, optimizer


def halves(batch, rank):
    return tuple(part[rank::2] for part in batch)


def work(rank, folder):
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    for name, config in CONFIGS.items():
        model, masked, optimizer = start(config)
        # As libraries of the field do: each rank draws other numbers.
        torch.manual_seed(rank)
        parallel = torch.nn.parallel.DistributedDataParallel(
            model, find_unused_parameters=config.mean_start_depth > 0
        )
        for batch in batches(STEPS, torch.float64):
            loss_of(parallel, halves(batch, rank)).backward()
            optimizer.step()
            optimizer.zero_grad()
        indices = {n: b.clone() for n, b in model.named_buffers()}
        weights = copy.deepcopy(model.state_dict())
        torch.save((indices, masked.period, weights), f"{folder}/{name}-{rank}.pt")
        # what an exchange of masks between two forward passes would make impossible
        sum(loss_of(parallel, halves(batch, rank)) for _ in range(2)).backward()
        masked.detach()
        assert not hasattr(model, "_ddp_params_and_buffers_to_ignore")
    for name, config in UNEQUAL.items():
        model, masked, optimizer = start(config, seed=rank)
        parallel = torch.nn.parallel.DistributedDataParallel(model)
        for batch in batches(STEPS, torch.float64):
            loss_of(parallel, halves(batch, rank)).backward()
            optimizer.step()
            optimizer.zero_grad()
        torch.save(masked.detach().state_dict(), f"{folder}/unequal {name}-{rank}.pt")
    model, _, _ = start(GMixout(mask_rate=0.5, seed=rank))
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    try:
        parallel(next(batches(1, torch.float64))[0])
    except AttachError as error:
        Path(folder, f"other masks-{rank}.txt").write_text(str(error))
    dist.destroy_process_group()


def test_a_model_that_is_wrapped_already_is_refused():
    wrapped = torch.nn.DataParallel(PlainNet())
    for model in (wrapped, torch.nn.Sequential(wrapped)):
        with pytest.raises(AttachError, match="Attach, then wrap"):
            gmixout.attach(model, GMixout())


def test_what_ddp_was_told_before_is_told_again():
    model = PlainNet()
    model._ddp_params_and_buffers_to_ignore = ["mine"]
    masked = gmixout.attach(model, GMixout())
    assert model._ddp_params_and_buffers_to_ignore[0] == "mine"
    assert len(model._ddp_params_and_buffers_to_ignore) == 1 + 2 * len(masked.summary().weights)
    assert masked.detach()._ddp_params_and_buffers_to_ignore == ["mine"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What two processes trained: they import torch anew, which takes most of the time."""
    if not dist.is_available():
        pytest.skip("torch was built without distributed")
    path = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, (str(path),), nprocs=2)
    return path


@pytest.mark.parametrize("name", CONFIGS)
def test_ranks_draw_the_same_masks_and_train_as_one(folder: Path, name):
    one, two = (torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in range(2))
    assert one[1] == two[1] == STEPS // 2
    assert one[0].keys() == two[0].keys()
    for buffer_name, buffer in one[0].items():
        assert torch.equal(buffer, two[0][buffer_name]), buffer_name
    torch.testing.assert_close(one[2], two[2], rtol=0, atol=0)
    model, _, optimizer = start(CONFIGS[name])
    for batch in batches(STEPS, torch.float64):
        loss_of(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(model.state_dict(), one[2], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", UNEQUAL)
def test_ranks_that_start_apart_train_as_rank_0_alone_would(folder: Path, name):
    one, two = (torch.load(folder / f"unequal {name}-{r}.pt", weights_only=True) for r in range(2))
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    model, masked, optimizer = start(UNEQUAL[name])
    for batch in batches(STEPS, torch.float64):
        loss_of(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(masked.detach().state_dict(), one, rtol=1e-9, atol=1e-9)


def test_ranks_of_other_seeds_do_not_train(folder: Path):
    """The rank that got another's masked values says so; the job ends with it."""
    assert not (folder / "other masks-0.txt").exists()
    assert "one config and seed" in (folder / "other masks-1.txt").read_text()
