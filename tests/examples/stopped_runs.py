"""Run an example three times: through; killed at a step; and again in the killed one's folder.

`python stopped_runs.py EXAMPLE FOLDER STEP [WORDS]` leaves `FOLDER/whole` and `FOLDER/resumed`. The
libraries are imported once, since that takes longer than the runs.
"""

import os
import runpy
import signal
import sys
from importlib import import_module
from pathlib import Path

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

LIBRARIES = {
    "hf_trainer": ("transformers.trainer", "transformers.models.vit.modeling_vit"),
    "lightning_fit": ("lightning", "timm"),
    "accelerate_loop": ("accelerate", "timm"),
    "timm_loop": ("timm",),
    "torchvision_loop": ("torchvision",),
    "open_clip_zero_shot": ("open_clip",),
    "text_minilm": ("transformers.models.bert.modeling_bert",),
}


def kill_at(step: int) -> None:
    """End this process after so many steps of any optimizer, as the system does it."""
    done = 0

    def count(*_):
        nonlocal done
        done += 1
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    register_optimizer_step_post_hook(count)


def run(script: Path, words: list[str], killed_at: int = 0) -> int:
    """Run the script in a process of its own; return how that ended."""
    if (child := os.fork()) == 0:
        sys.argv = [str(script), *words]
        if killed_at:
            kill_at(killed_at)
        code = 1
        try:
            runpy.run_path(str(script), run_name="__main__")
            code = 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            if code:
                sys.excepthook(*sys.exc_info())
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    script, folder, step, *words = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]
    for library in LIBRARIES[script.stem]:
        import_module(library)
    folders = {"whole": 0, "resumed": int(step)}
    for name, killed_at in folders.items():
        print(f"-- {name}", flush=True)
        end = run(script, [*words, "--out", str(folder / name)], killed_at)
        assert end == (-signal.SIGKILL if killed_at else 0), f"{name} ended with {end}"
    print("-- resumed again", flush=True)
    assert run(script, [*words, "--out", str(folder / "resumed")]) == 0
