"""No test of this room may reach a network; finished runs, made once."""

import shutil
import socket
from importlib import import_module

import numpy as np
import pytest
import torch
from finished import finetuned, pictures
from tiny_foundations import timm_folder


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    connect = socket.socket.connect

    def local(own, address):
        assert own.family == socket.AF_UNIX, "a socket was opened"  # of loading processes
        return connect(own, address)

    def refuse(*_):
        raise AssertionError("a name was looked up")

    monkeypatch.setattr(socket.socket, "connect", local)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of images of two classes, told apart by their colour."""
    return pictures(tmp_path_factory.mktemp("photos"), np.random.default_rng(0))


@pytest.fixture(scope="session")
def run(tmp_path_factory, photos):
    """A finished run on them; what it was made of is gone."""
    with torch.random.fork_rng(devices=[]), pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(0)
        report = import_module("gmixout.bench.commands.report")
        patch.setattr(report, "write_report", lambda *_, **__: [])
        foundation = timm_folder(tmp_path_factory.mktemp("foundation"), mean=[0.4, 0.5, 0.6])
        out = finetuned(tmp_path_factory.mktemp("runs") / "run", photos, f"timm:{foundation}")
        shutil.rmtree(foundation)
        return out
