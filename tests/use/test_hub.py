"""Uploads to the hub, against a stand-in of its interface: what is sent where, and what is said."""

import os
from types import SimpleNamespace

import huggingface_hub
import pytest
from finished import saved
from tiny_foundations import timm_folder

from gmixout.cli import main
from gmixout.errors import ConfigError
from gmixout.use.hub import check_repository, files_of

TOKEN = "hf_secretsecretsecret"


@pytest.fixture
def hub(monkeypatch):
    """The calls that were made, and the error that the next one raises."""
    state = SimpleNamespace(calls=[], error=None, token=TOKEN)

    class Api:
        endpoint = "https://hub.example"

        def create_repo(self, repo_id, **options):
            state.calls.append(("create_repo", repo_id, options))
            if state.error:
                raise state.error
            return SimpleNamespace(repo_id=f"me/{repo_id}" if "/" not in repo_id else repo_id)

        def upload_folder(self, **options):
            found = sorted(os.listdir(options["folder_path"]))
            state.calls.append(("upload_folder", options["repo_id"], found))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: state.token)
    return state


def words(run, photos, out, *more):
    images = ["--images", str(photos / "val")]
    return ["export", str(run), "--to", "timm", "--out", str(out), *images, *more]


def test_the_folder_goes_up_with_its_card(run, photos, tmp_path, hub, capsys):
    out = tmp_path / "out"
    assert main(words(run, photos, out, "--push-to-hub", "my-model")) == 0
    (made, name, options), (uploaded, repository, files) = hub.calls
    assert (made, name, uploaded, repository) == (
        "create_repo", "my-model", "upload_folder", "me/my-model",
    )  # fmt: skip
    assert options == {"repo_type": "model", "private": True, "exist_ok": True}
    assert files == ["README.md", "accuracy.png", "config.json", "model.safetensors"]
    told = capsys.readouterr().err
    assert "https://hub.example/me/my-model" in told
    assert "private if it is new" in told
    assert TOKEN not in told
    card = (out / "README.md").read_text()
    for part in ("![Accuracy before and after finetuning](accuracy.png)", "| set | images |",
                 "## Limits", "- Data: "):  # fmt: skip
        assert part in card
    assert (out / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_a_dry_run_lists_the_files_and_sends_nothing(run, photos, tmp_path, hub, capsys):
    out = tmp_path / "out"
    assert main(words(run, photos, out, "--push-to-hub", "a/b", "--public", "--dry-run")) == 0
    told = capsys.readouterr().err
    for file, size in files_of(out):
        assert f"  {file}  {size:,} bytes" in told
    assert "Nothing was uploaded" in told
    assert "to a/b, public if it is new" in told
    assert hub.calls == []


def test_an_error_of_the_hub_is_plain_and_without_the_token(run, photos, tmp_path, hub, capsys):
    hub.error = RuntimeError(f"401 for https://user:{TOKEN}@hub.example\n\x1b[31m Unauthorized")
    assert main(words(run, photos, tmp_path / "out", "--push-to-hub", "a/b")) == 2
    told = capsys.readouterr().err
    assert "was not uploaded to a/b: 401 for https://user:***@" in told
    assert TOKEN not in told
    assert "log in first" not in told
    assert (tmp_path / "out" / "README.md").exists()
    hub.token = None
    assert main(words(run, photos, tmp_path / "again", "--push-to-hub", "a/b")) == 2
    assert "log in first: hf auth login, or set HF_TOKEN" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a/b/c", "", "a b", "../x", "a/..", "https://x/y", "a/b\n"])
def test_names_that_are_none_are_refused_before_any_work(name, run, photos, tmp_path, hub):
    with pytest.raises(ConfigError, match="NAME or OWNER/NAME"):
        check_repository(name)
    if name:
        assert main(words(run, photos, tmp_path / "out", "--push-to-hub", name)) == 2
    assert not (tmp_path / "out").exists()
    assert hub.calls == []


def test_files_and_lonely_options_are_refused(run, tmp_path, hub, capsys):
    place = ["--out", str(tmp_path / "x.onnx")]
    assert main(["export", str(run), "--to", "onnx", *place, "--push-to-hub", "a/b"]) == 2
    assert "push_to_hub goes with timm, hf and open_clip" in capsys.readouterr().err
    assert main(["export", str(run), "--to", "timm", "--dry-run", "--public"]) == 2
    assert "--public and --dry-run goes with --push-to-hub" in capsys.readouterr().err


def test_without_a_record_there_is_no_picture(photos, tmp_path, hub):
    (tmp_path / "model").mkdir()
    lonely = saved(tmp_path / "run", str(timm_folder(tmp_path / "model")))
    assert main(words(lonely, photos, tmp_path / "out")) == 0
    assert not (tmp_path / "out" / "accuracy.png").exists()
    assert "accuracy.png" not in (tmp_path / "out" / "README.md").read_text()
