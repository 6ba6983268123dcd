import sys
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

collect_ignore_glob = [] if find_spec("timm") and find_spec("peft") else ["test_*.py"]
