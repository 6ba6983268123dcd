"""What holds of each regularizer, beside dense and masked methods."""

import math
import signal

import pytest
from small_run import run, same

from gmixout.errors import ConfigError
from gmixout.methods import METHODS, get_method
from gmixout.regularizers import REGULARIZERS
from gmixout.training import TrainingInterrupted

BESIDE = ["full", "gmixout(resample_every=2)", "gmixout(structure='element', resample_every=4)"]
NAMES = sorted(REGULARIZERS)
OFF = {"regmixup": "weight=0", "teacher": "weight=0", "sam": "rho=0"}
"""By an option, what takes it out altogether."""


@pytest.mark.parametrize("method", BESIDE)
@pytest.mark.parametrize("name", NAMES)
def test_a_run_learns_and_resumes_to_the_bit(name, method, tmp_path):
    def interrupt(step, loss):
        if step == 4:
            signal.raise_signal(signal.SIGINT)

    whole = run(f"{method}+{name}")
    assert all(math.isfinite(loss) for loss in whole.losses)
    assert not same(whole, run(method))
    with pytest.raises(TrainingInterrupted):
        run(f"{method}+{name}", checkpoint=tmp_path / "c.pt", on_progress=interrupt)
    assert same(run(f"{method}+{name}", checkpoint=tmp_path / "c.pt"), whole)


@pytest.mark.parametrize("method", BESIDE)
@pytest.mark.parametrize("name", OFF)
def test_at_weight_0_it_is_not_there(name, method):
    assert same(run(f"{method}+{name}({OFF[name]})"), run(method))


@pytest.mark.parametrize("name", NAMES)
def test_one_that_acts_beside_every_method_is_one_of_the_methods_own(name):
    beside_all = run("full", regularizers=(REGULARIZERS[name](),))
    assert same(beside_all, run(f"full+{name}"))


def test_they_go_together_and_the_plain_model_has_the_same_keys():
    everything = "group_dro+teacher+regmixup+cutmix+sam"
    found = run(f"gmixout+{everything}", batches="even_domains", batch_size=9)
    assert found.model.state_dict().keys() == run().model.state_dict().keys()
    assert found.trainable == run("gmixout").trainable


@pytest.mark.parametrize("name", NAMES)
def test_the_global_random_state_stays(name, rng_untouched):
    with rng_untouched():
        run(f"full+{name}")


@pytest.mark.parametrize("name", NAMES)
def test_bf16(name):
    assert all(map(math.isfinite, run(f"gmixout+{name}", mixed_precision="bf16").losses))


@pytest.mark.parametrize("name", NAMES)
def test_options_out_of_range_are_refused_and_text_gives_them_back(name):
    for option, value in vars(REGULARIZERS[name]()).items():
        with pytest.raises(ConfigError, match=option):
            REGULARIZERS[name](**{option: -1.0})
        with pytest.raises(ConfigError, match=option):
            REGULARIZERS[name](**{option: math.nan})
        changed = REGULARIZERS[name](**{option: 2 * value or 0.5})
        method = get_method(f"full+{changed}")
        assert method.regularizers == (changed,)
        assert get_method(str(method)) == method


OPTIONS = {"gmixout": "resample_every=2", "lp_ft": "probe_steps=2", "shira": "rank=2"}
"""What defaults for real models are too long or too large for."""
TRAINED = [name for name in METHODS if get_method(name).trained == get_method(name)]


@pytest.mark.parametrize("name", TRAINED)
def test_they_act_beside_every_method(name):
    text = f"{name}({OPTIONS.get(name, '')})"
    found = run(f"{text}+teacher+sam", steps=4)
    assert all(map(math.isfinite, found.losses))
    assert not same(found, run(text, steps=4))
    assert found.model.state_dict().keys() == run().model.state_dict().keys()
