"""`gmixout+regmixup+sam`: one name for a method and what acts beside it."""

import pickle

import pytest

from gmixout.errors import ConfigError
from gmixout.methods import METHODS, Method, get_method
from gmixout.methods.beside import beside
from gmixout.named import completed, from_spec, identity, spec_of
from gmixout.regularizers import REGULARIZERS

WRITTEN = [
    "gmixout+sam",
    "gmixout+regmixup+sam",
    "gmixout(mask_rate=0.8, structure='element')+sam(rho=0.1)+mixup(concentration=0.4)",
    "full+group_dro",
    "lp_ft+teacher(weight=0.5)",
]


@pytest.mark.parametrize("text", WRITTEN)
def test_what_is_written_is_read(text):
    method = get_method(text)
    assert str(method) == text
    assert method.name == "+".join(part.split("(")[0] for part in text.split("+"))
    assert method.trained == method
    assert get_method(str(method)) == method
    assert from_spec(spec_of(method), Method) == method
    assert pickle.loads(pickle.dumps(method)) == method
    assert completed(spec_of(method), Method) == spec_of(method)


@pytest.mark.parametrize("text", ["wise_ft(of=full+sam)", "wise_ft(of=gmixout(mask_rate=0.8)+sam)"])
def test_sums_stand_among_options_too(text):
    method = get_method(text)
    assert str(method) == text
    assert len(method.trained.regularizers) == 1
    assert get_method("wise_ft+sam") == get_method("wise_ft(of=full+sam)")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_read_from_what_it_writes(name):
    method = get_method(name)
    assert get_method(str(method)) == method


def test_texts_need_no_quotes():
    bare = get_method("gmixout(structure=element, residual=persist, rescale=True)+sam")
    assert bare == get_method("gmixout(structure='element', residual='persist', rescale=True)+sam")


def test_what_a_method_without_regularizers_is_does_not_change():
    assert get_method("gmixout").regularizers == ()
    assert identity(get_method("gmixout")) == {"name": "gmixout", "options": {}}
    assert identity(get_method("gmixout+sam")) == {
        "name": "beside",
        "options": {
            "of": {"name": "gmixout", "options": {}},
            "adds": [{"name": "sam", "options": {}}],
        },
    }


def test_runs_differ_by_what_acts_and_in_which_order():
    names = ("gmixout", "gmixout+sam", "full+sam", "gmixout+sam+mixup", "gmixout+mixup+sam")
    found = [str(identity(get_method(name))) for name in (*names, "gmixout+sam(rho=0.1)")]
    assert len(set(found)) == len(found)


def test_beside_a_method_that_is_built_on_runs_it_acts_in_these_runs():
    built = get_method("wise_ft(alphas=(0.5,))+sam")
    assert built.trained == get_method("full+sam")
    assert built.alphas == (0.5,)
    assert get_method("gmixout_wise_ft+sam").trained == get_method("gmixout+sam")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gmixout+", "must have the form"),
        ("gmixout+sam+", "must have the form"),
        ("+sam", "must have the form"),
        ("gmixout+samm", "unknown regularizer 'samm'; known: mixup"),
        ("gmixoutt+sam", "unknown method 'gmixoutt'"),
        ("gmixout+sam+sam", "differ"),
        ("gmixout+full", "unknown regularizer 'full'"),
        (
            "sam+gmixout",
            r"unknown method 'sam'; sam is a regularizer, written METHOD\+sam; known: zero",
        ),
        ("zero_shot+sam", "trains nothing"),
        ("gmixout+sam(rho=-1)", "rho"),
        ("gmixout+sam(size=1)", "no option size"),
        ("gmixout+sam(0.1)", "must have the form"),
        ("gmixout+sam(**{})", "must have the form"),
        ("gmixout+sam(rho=__import__('os'))", "must have the form|unknown"),
        ("gmixout+sam(rho=open('x'))", "must have the form|unknown|rho"),
        ("gmixout-sam", "unknown method"),
        ("os.system+sam", "os.system is not part of gmixout"),
        ("full+os.system", "os.system is not part of gmixout"),
        ("full+os:system", "os.system is not part of gmixout"),
        ("os:system(x=1)+sam", "os.system is not part of gmixout"),
        ("(" * 300 + "full" + ")" * 300 + "+sam", "must have the form"),
        ("full+" * 1000 + "sam", "must have the form"),
        ("gmixout+sam(rho=" + "9" * 5000 + ")", "must have the form"),
    ],
)
def test_what_cannot_be_read_is_an_error(text, message):
    with pytest.raises(ConfigError, match=message):
        get_method(text)


def test_it_stands_in_no_list_of_methods():
    assert "beside" not in METHODS
    assert set(REGULARIZERS).isdisjoint(METHODS)
    with pytest.raises(ConfigError, match="one or more"):
        beside()
