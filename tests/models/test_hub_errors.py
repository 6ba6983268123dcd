"""What a model that cannot be had says: how to provide it, or that there is none."""

from urllib.error import URLError

import pytest
from tiny_foundations import CLASSES, hf_dinov2

from gmixout.errors import ConfigError, DataError
from gmixout.models import hub, load_pretrained

NAMES = {
    "timm:test_vit.r160_in1k": r"timm:test_vit.r160_in1k@.*model.safetensors",
    "timm:hf-hub:timm/test_vit.r160_in1k": r"--model timm:/path/to/folder",
    "open_clip:ViT-B-16/openai": r"open_clip:ViT-B-16/openai@.*open_clip_model.safetensors",
    "open_clip:ViT-B-32/laion2b_s34b_b79k": r"open_clip_config.json",
    "open_clip:hf-hub:laion/CLIP-ViT-B-32": r"open_clip_config.json",
    "hf:facebook/dinov2-base": r"preprocessor_config.json, model.safetensors.*hf:/path/to/folder",
}
"""Models of the hub, and what of the way out must be named."""


@pytest.mark.parametrize("name", NAMES)
def test_offline_it_says_how_to_provide_the_model(name, rng_untouched):
    with rng_untouched(), pytest.raises(DataError, match=NAMES[name]) as raised:
        load_pretrained(name, CLASSES)
    assert name in str(raised.value)
    assert "cannot be reached" in str(raised.value)


@pytest.fixture
def answering(monkeypatch):
    """The hub answers each request as it is told; nothing goes through a socket."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    http = pytest.importorskip("huggingface_hub.utils._http")
    httpx = getattr(http, "httpx2", None) or getattr(http, "httpx", None)
    if httpx is None:
        pytest.skip("this huggingface_hub has another HTTP client")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)

    def answer(respond):
        def client():
            transport = httpx.MockTransport(lambda request: respond(httpx, request))
            return httpx.Client(transport=transport, follow_redirects=True)

        huggingface_hub.set_client_factory(client)

    yield answer
    huggingface_hub.set_client_factory(http.default_client_factory)


def refusing(status, code):
    def respond(httpx, request):
        return httpx.Response(status, headers={"X-Error-Code": code}, request=request)

    return respond


def unreachable(httpx, request):
    raise httpx.ConnectError("name or service not known", request=request)


HF, TIMM = "hf:facebook/dinov2-bsae", "timm:hf-hub:timm/test_vitt"


@pytest.mark.parametrize(
    ("name", "respond", "error", "message"),
    [
        (HF, refusing(404, "RepoNotFound"), ConfigError, "there is no model"),
        (TIMM, refusing(404, "RepoNotFound"), ConfigError, "there is no model"),
        (HF, refusing(401, "GatedRepo"), DataError, "accept its licence"),
        (TIMM, refusing(401, "GatedRepo"), DataError, "accept its licence"),
        (HF, refusing(404, "EntryNotFound"), DataError, "config.json"),
        (TIMM, refusing(404, "EntryNotFound"), ConfigError, "is on the hub, but"),
        (HF, unreachable, DataError, "cannot be reached"),
        (TIMM, unreachable, DataError, "cannot be reached"),
    ],
)
def test_online_it_says_what_the_hub_says(answering, monkeypatch, name, respond, error, message):
    http = pytest.importorskip("huggingface_hub.utils._http")
    monkeypatch.setattr(http.time, "sleep", lambda _: None)
    answering(respond)
    with pytest.raises(error, match=message) as raised:
        load_pretrained(name, CLASSES)
    assert name in str(raised.value)


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    folder = hf_dinov2(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'gmixout\[hub\]'"):
        load_pretrained(f"hf:{folder}", CLASSES)


class ConnectTimeout(Exception):
    """As HTTP clients call theirs, which inherit from nothing that we know."""


@pytest.mark.parametrize("kind", [URLError, ConnectionResetError, TimeoutError, ConnectTimeout])
def test_any_failure_of_the_network_says_how_to_provide_the_model(kind):
    def download():
        try:
            raise kind("no route")
        except Exception as error:
            raise RuntimeError("failed to download") from error

    with (
        pytest.raises(DataError, match=r"timm:x .* cannot be reached .*, do so$"),
        hub.loading("timm:x", "do so"),
    ):
        download()


def test_our_own_errors_pass_as_they_are():
    with pytest.raises(ConfigError, match=r"^mine$"), hub.loading("x", "y"):
        raise ConfigError("mine")


def test_bugs_of_a_library_keep_their_message():
    with (
        pytest.raises(DataError, match=r"timm:x cannot be loaded: odd$"),
        hub.loading("timm:x", ""),
    ):
        raise TypeError("odd") from RuntimeError("deep")
