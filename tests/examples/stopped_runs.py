"""Run an example three times: through; killed at a step; and once more in the killed one's folder.

`python stopped_runs.py EXAMPLE FOLDER STEP [WORDS]` leaves `FOLDER/whole` and `FOLDER/resumed`, and
prints how many steps each run took. The libraries are imported once, since that takes longer than
the runs.
"""

import json
import os
import runpy
import signal
import sys
from importlib import import_module
from pathlib import Path

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

IMPORTS = ["sklearn.datasets", "gmixout.core.attach", "numpy"]
LIBRARIES = {
    "hf_trainer": ["transformers.trainer", "transformers.models.vit.modeling_vit"],
    "lightning_fit": ["lightning", "timm"],
    "accelerate_loop": ["accelerate", "timm"],
    "timm_loop": ["timm"],
    "torchvision_loop": ["torchvision"],
    "open_clip_zero_shot": ["open_clip"],
    "text_minilm": ["transformers.models.bert.modeling_bert", "transformers.models.auto"],
}


class Steps:
    """Counts an optimizer's steps, and ends the process at one as the system does: by SIGKILL."""

    def __init__(self, last: int) -> None:
        self.done, self.last = 0, last
        register_optimizer_step_post_hook(self)

    def __call__(self, *_) -> None:
        self.done += 1
        if self.done == self.last:
            os.kill(os.getpid(), signal.SIGKILL)


def run(script: Path, words: list[str], killed_at: int = 0) -> int:
    """Run the script in a process of its own; return the steps that it took."""
    results = Path(words[-1]).parent / "steps.json"
    if (child := os.fork()) == 0:
        sys.argv = [str(script), *words]
        sys.path.insert(0, str(script.parent))  # as python does
        code, steps = 1, Steps(killed_at)
        try:
            runpy.run_path(str(script), run_name="__main__")
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        results.write_text(json.dumps(steps.done))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    end = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert end == (-signal.SIGKILL if killed_at else 0), f"{words} ended with {end}"
    return killed_at or json.loads(results.read_text())


if __name__ == "__main__":
    torch.set_num_threads(1)
    script, folder, step, *words = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]
    folder.mkdir(parents=True, exist_ok=True)
    for library in [*LIBRARIES[script.stem], *IMPORTS]:
        import_module(library)
    whole, resumed = ([*words, "--out", str(folder / name)] for name in ("whole", "resumed"))
    taken = {"whole": run(script, whole)}
    taken["killed"] = run(script, resumed, int(step))
    taken["resumed"] = run(script, resumed)
    print(json.dumps(taken))
