from collections.abc import Callable

import pytest
from records import EXAMPLE, changed, sets

from gmixout.results import Record


@pytest.fixture
def make_record() -> Callable[..., Record]:
    """A record with some fields of one's own; `id`, `ood` and `id_val` set the accuracies."""

    def make(**changes) -> Record:
        accuracy = sets(EXAMPLE, "accuracy")
        if "ood" in changes:
            accuracy = {k: accuracy[k] for k in ("id_val", "id_test")} | {"noise": changes["ood"]}
            del changes["ood"]
        for short, name in (("id", "id_test"), ("id_val", "id_val")):
            if short in changes:
                accuracy[name] = changes.pop(short)
        record = changed(EXAMPLE, **{"accuracy": accuracy, **changes})
        return changed(
            record,
            run=changes.get("run", f"{record.method.name}-{record.lr}-{record.seed}"),
        )

    return make
