"""Parts of a long measurement, each in processes of its own and with its share of the time."""

import argparse
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from gmixout.files import write_text

LEAST_SECONDS = 5.0
"""No part starts with less time than that."""
TABLE_SECONDS = 60.0
WIDTH = 180
Raw = dict[str, Any]


class Skipped(Exception):
    """A part cannot run here; the message says why."""


@dataclass(frozen=True)
class Job:
    """What a part is told."""

    device: str
    quick: bool
    """A miniature: does it run?"""
    seconds: float
    """How long it may take; then it is killed."""
    raw: Path
    """The file for its raw values, which it may rewrite as often as it likes."""
    data: Path | None = None
    """The folder of PACS."""

    def save(self, raw: Raw) -> None:
        """Writes the raw values."""
        write_text(self.raw, json.dumps(raw))

    def words(self, large: str, quick: str) -> list[str]:
        """A command line: that of the miniature if this is one."""
        return [*(quick if self.quick else large).split(), "--out", str(self.raw)]


@dataclass(frozen=True)
class Part:
    """One thing to measure."""

    what: str
    seconds: float
    """Its share of the time, beside those of the others."""
    run: Callable[[Job], None]
    table: Callable[[Raw], Iterable[Table]]


def call(folder: Path, log: Path, function: Callable[..., None], *args: Any) -> None:
    """Calls a function in this process, made the head of a group, and notes how it ended."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    sys.stdout = sys.stderr = log.open("a", encoding="utf-8", buffering=1)
    for number in (1, 2):  # of what it starts
        os.dup2(sys.stdout.fileno(), number)
    try:
        function(*args)
        state = "done"
    except Skipped as reason:
        state = f"skipped: {reason}"
    except ModuleNotFoundError as error:
        state = f"skipped: the package {error.name} is missing"
        traceback.print_exc()
    except BaseException as error:  # SystemExit, too: the scripts refuse settings with it
        state = f"failed: {type(error).__name__}: {str(error).strip()[:300]}"
        traceback.print_exc()
    write_text(folder / "state", state)


def apart(
    context: Any, folder: Path, log: Path, seconds: float, function: Callable[..., None], *args: Any
) -> str:
    """Calls a function in a group of processes of its own, which ends with it; returns how."""
    note = folder / "state"
    note.unlink(missing_ok=True)
    process = context.Process(target=call, args=(folder, log, function, *args))
    process.start()
    try:
        process.join(seconds)
        if process.exitcode is None:
            return f"stopped after {seconds:.0f} s"
        return note.read_text() if note.exists() else f"failed: exit code {process.exitcode}"
    finally:
        with suppress(ProcessLookupError, PermissionError, AttributeError):
            os.killpg(process.pid, signal.SIGKILL)  # what it started, too
        process.kill()
        process.join()


def describe(device: str, file: Path) -> None:
    """Writes versions and machine; fails where the device cannot be used."""
    import torch
    from _timing import describe_run

    torch.zeros(1, device=device)
    write_text(file, json.dumps(describe_run(torch.device(device), torch.get_num_threads())))


def draw(part: Part, raw: Path, file: Path) -> None:
    """Writes the table of a part as text."""
    with file.open("w", encoding="utf-8") as text:
        print_tables(Console(file=text, width=WIDTH), part.table(json.loads(raw.read_text())))


def print_tables(console: Console, tables: Iterable[Table]) -> None:
    """Prints tables below their titles, which may be wider."""
    for table in tables:
        title, table.title = table.title, None
        console.print(title or "", table, sep="\n")


def usable_context(
    device: str, folder: Path, log: Path, preloaded: Sequence[str]
) -> tuple[Any, Raw]:
    """How to start processes here, with what they run on.

    A server that has the modules loaded and never touches the device forks them at once; where
    that does not work, each process loads its own.

    Raises:
        SystemExit: The device cannot be used.
    """
    found, state = folder / "machine.json", ""
    starts = multiprocessing.get_all_start_methods()
    for start in (each for each in ("forkserver", "spawn") if each in starts):
        context = multiprocessing.get_context(start)
        if start == "forkserver":
            context.set_forkserver_preload(list(preloaded))
        state = apart(context, folder, log, 120, describe, device, found)
        if state == "done":
            return context, json.loads(found.read_text())
    raise SystemExit(
        f"--device {device} cannot be used ({state}); --device cpu --quick tries the script itself"
    )


def run_parts(
    parts: dict[str, Part], args: argparse.Namespace, context: Any, folder: Path, machine: Raw
) -> dict[str, str]:
    """Runs the parts, writes and prints what each has found; returns how each ended.

    What a part leaves of its share of the time is the others'.

    Args:
        parts: By name, in the order of their worth.
        args: `device`, `quick`, `data`, `minutes` of all together and the folder `out`.
        context: How to start processes, of `multiprocessing`.
        folder: For temporary files.
        machine: What the results depend on.
    """
    results: Raw = {
        "schema": 1,
        "setting": {"device": args.device, "quick": args.quick, "minutes": args.minutes},
        **machine,
        "parts": {},
    }
    states: dict[str, str] = {}
    shown, log = args.out / "gpu.txt", args.out / "gpu.log"
    end = time.monotonic() + 60 * args.minutes
    ahead = sum(part.seconds for part in parts.values())
    texts: list[str] = []

    def add(text: str) -> None:
        print(text, flush=True)
        texts.append(text)
        write_text(shown, "\n".join(texts) + "\n")

    for name, part in parts.items():
        seconds = max(0.0, end - time.monotonic()) * part.seconds / ahead
        ahead -= part.seconds
        job = Job(args.device, args.quick, seconds, folder / f"{name}.json", args.data)
        started = time.monotonic()
        try:
            states[name] = "no time is left"
            if seconds >= LEAST_SECONDS:
                states[name] = apart(context, folder, log, seconds, part.run, job)
        except KeyboardInterrupt:
            states[name] = "interrupted"
        took = time.monotonic() - started
        raw = json.loads(job.raw.read_text()) if job.raw.exists() else None
        results["parts"][name] = {"state": states[name], "seconds": took, "raw": raw}
        write_text(args.out / "gpu.json", json.dumps(results) + "\n")
        add(f"\n== {name}: {part.what}. {states[name]}, {took:.0f} s")
        if raw is not None:
            drawn = folder / "table.txt"
            state = apart(context, folder, log, TABLE_SECONDS, draw, part, job.raw, drawn)
            add(drawn.read_text().rstrip() if state == "done" else f"no table: {state}")
        if states[name] == "interrupted":
            break
    for name, state in states.items():
        add(f"{name:20} {state}")
    return states
