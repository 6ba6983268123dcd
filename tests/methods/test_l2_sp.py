import torch
from small_models import Run, batch, cnn, difference, vit
from torch.nn import functional
from toy_benchmark import toy_pretrained

from gmixout.methods import get_method

PULL, HEAD_DECAY = 0.7, 0.3


def test_a_step_is_that_of_the_loss_with_the_penalty():
    images, labels = batch(0)
    models = [vit().double().eval() for _ in range(2)]
    start = {name: p.detach().clone() for name, p in models[0].named_parameters()}
    for model in models:  # somewhere else than at the pretrained weights, where nothing pulls
        finetuning = get_method("l2_sp", pull=PULL, head_decay=HEAD_DECAY).start(
            toy_pretrained(model), 0
        )
        groups = finetuning.param_groups(lr=0.1)
        optimizer = torch.optim.SGD(groups)
        if model is models[0]:
            optimizer = finetuning.bind(optimizer)
        for _ in range(3):
            loss = functional.cross_entropy(model(images.double()), labels)
            if model is models[1]:
                for name, parameter in model.named_parameters():
                    if name.startswith("head."):
                        loss = loss + HEAD_DECAY / 2 * parameter.square().sum()
                    else:
                        loss = loss + PULL / 2 * (parameter - start[name]).square().sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict())


def test_without_a_pull_it_is_full_finetuning():
    pulled = Run(get_method("l2_sp", pull=0.0, head_decay=0.0), cnn()).steps(3)
    full = Run("full", cnn()).steps(3)
    assert difference(pulled.finetuning.snapshot(), full.finetuning.snapshot()) == set()


def test_a_stronger_pull_stays_nearer():
    def distance(pull):
        run = Run(get_method("l2_sp", pull=pull), vit()).steps(10)
        moved = run.finetuning.detach().state_dict()
        pairs = [(moved[k], v) for k, v in vit().state_dict().items() if "head" not in k]
        return sum(float((a - b).square().sum()) for a, b in pairs)

    assert distance(10.0) < distance(1.0) < distance(0.0)


def test_the_pull_ends_with_the_finetuning():
    run = Run(get_method("l2_sp", pull=100.0), vit()).steps(3)
    model = run.finetuning.detach()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    run.optimizer.step()
    assert all((p.grad == 0).all() for p in model.parameters())
