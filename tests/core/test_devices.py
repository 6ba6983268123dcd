"""A step waits for no data: on a GPU, Python runs ahead of the device all the time."""

import pytest
import torch
from tiny import CUTS, STRUCTURES, TinyNet, loss_of

import gmixout
from gmixout import GMixout, mixout

OPTIONS = {
    "lean": GMixout(resample_every=2),
    "depth": GMixout(resample_every=2, mean_start_depth=0.5),
    "pull": GMixout(resample_every=2, anchor_pull=0.3),
    "persist": GMixout(resample_every=2, residual="persist"),
    "mixout": mixout(0.5),
}


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("option", OPTIONS)
def test_steps_and_resampling_read_no_values(option, structure):
    """Tensors on the meta device have shapes and no values: who asks for one is refused.

    Nor does one of another device get in.
    """
    config = GMixout(
        **{**vars(OPTIONS[option]), "mask_rate": 0.5, **CUTS[structure], "block_size": 4}
    )
    with torch.device("meta"):
        model = TinyNet()
        masked = gmixout.attach(model, config)
        # torch's own AdamW reads its step counts in some versions
        optimizer = masked.bind(torch.optim.SGD(masked.param_groups(1e-3), momentum=0.9))
        for _ in range(3):
            batch = torch.empty(6, 4, 4, 4), torch.empty(6, dtype=torch.long)
            loss_of(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
        assert {tensor.device.type for tensor in masked.snapshot().values()} == {"meta"}
        masked.detach()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # is a prototype, says torch
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("option", OPTIONS)
def test_steps_on_a_gpu_wait_for_nothing(option, structure):
    config = GMixout(
        **{**vars(OPTIONS[option]), "mask_rate": 0.5, **CUTS[structure], "block_size": 4}
    )
    model = TinyNet().cuda()
    masked = gmixout.attach(model, config)
    optimizer = masked.bind(torch.optim.AdamW(masked.param_groups(1e-3), fused=True))
    batch = torch.randn(6, 4, 4, 4).cuda(), torch.zeros(6, dtype=torch.long).cuda()
    try:
        for step in range(5):
            loss_of(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
            if step == 0:  # libraries have been loaded
                torch.cuda.set_sync_debug_mode("error")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(value.isfinite().all() for value in masked.snapshot().values())
