"""Throws made-up cases at the command line until the time is up; writes down whatever it should
not have answered.

    python tools/fuzz.py --seconds 600 --what data --keep found
    python tools/fuzz.py --replay data-0-17

data       files of chats: odd rows, damaged bytes, no files at all
config     configs with odd keys and values, damaged text, odd `--set`
rows       valid chats with odd content, in all formats, held against Transformers' rendering
templates  chat templates with pieces deleted, doubled, swapped; endless, huge
trees      foreign files in and beside a run, and a verb that replaces or removes
runs       damaged files of a finished or unfinished run, and a verb that reads it

A case is a folder, a command line for `lorawright` and what is known of the right answer. It runs
inside a worker, a process of its own that is killed when it takes too long. Verdicts that count:
"unexpected" (the outermost edge caught something), a traceback, a hang, a process that ended, an
exit code of none of ours, stdout that is no JSON, rows that were lost without an address, and what
the kind's own checks say. `--keep` has the folder as the command left it and the answer;
`--replay NAME` makes the case anew.

A new kind of case: a function like `fuzz_data.make`, and a line in `KINDS`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fuzz_config
import fuzz_data
import fuzz_rows
import fuzz_runs
import fuzz_templates
import fuzz_trees
from fuzz_case import Case

KINDS: dict[str, Callable[[Path, random.Random], Case]] = {
    "data": fuzz_data.make,
    "config": fuzz_config.make,
    "rows": fuzz_rows.make,
    "runs": fuzz_runs.make,
    "templates": fuzz_templates.make,
    "trees": fuzz_trees.make,
}
EXIT_CODES = (0, 1, 2)


class Worker:
    """A process that runs cases one after another; a new one takes its place when it is gone."""

    def __init__(self) -> None:
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "passive"}
        return subprocess.Popen(
            [sys.executable, __file__, "--worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )

    def ask(self, folder: Path, arguments: list[str], limit_seconds: float) -> dict[str, Any]:
        """The answer to one case: code, out and err, or `hang`, or `died`."""
        process = self.process
        assert process.stdin is not None and process.stdout is not None
        request = json.dumps({"folder": os.fsdecode(folder), "arguments": arguments})
        process.stdin.write(request.encode() + b"\n")
        process.stdin.flush()
        if not select.select([process.stdout], [], [], limit_seconds)[0]:
            self.end()
            self.process = self._start()
            return {"hang": limit_seconds}
        line = process.stdout.readline()
        if line:
            return dict(json.loads(line))
        self.process = self._start()
        return {"died": process.wait()}

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def work() -> None:
    """A worker: requests on stdin, answers on what was stdout."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        os.chdir(request["folder"])
        os.environ["LORAWRIGHT_CACHE"] = str(Path(request["folder"], "cache"))
        replies.write(json.dumps(answered(request["arguments"])) + "\n")
        replies.flush()


def answered(arguments: list[str]) -> dict[str, Any]:
    """What a command line answers in the current folder: code, out and err."""
    from lorawright.cli import run

    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in "oe")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = run(arguments)
        except BaseException:  # whatever comes through is what is looked for
            code = -1
            traceback.print_exc()
    return {"code": code, "out": _text(out), "err": _text(err)}


def _text(stream: io.TextIOWrapper) -> str:
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode(errors="replace")


def judge(case: Case, answer: dict[str, Any]) -> list[str]:
    """What is wrong with an answer; nothing, most of the time."""
    if "hang" in answer:
        return [f"hang: no answer in {answer['hang']:.0f} s"]
    if "died" in answer:
        return [f"died: the process ended with {answer['died']}"]
    faults = []
    if answer["code"] not in EXIT_CODES:
        faults.append(f"code: {answer['code']}")
    for name, word in (("unexpected", "error: unexpected "), ("traceback", "Traceback (most")):
        if word in answer["err"] or f'"message":"{name}' in answer["out"]:
            faults.append(f"{name}: {answer['err'].strip()[-300:]}")
    if not faults:
        faults = [fault for check in case.afterwards for fault in check(answer)]
    if faults or not case.is_json:
        return faults
    if not answer["out"]:
        return [] if answer["code"] else ["silent: nothing on stdout, exit code 0"]
    try:
        found = json.loads(answer["out"])
    except ValueError as error:
        return [f"json: {error}"]
    return [fault for check in case.checks for fault in check(found)]


def loop(what: list[str], seed: int, until: float, args: argparse.Namespace) -> Counter[str]:
    """Cases of one worker until the time is up."""
    worker, verdicts, number = Worker(), Counter[str](), 0
    try:
        while time.monotonic() < until:
            kind = what[number % len(what)]
            name = f"{kind}-{seed}-{number}"
            number += 1
            folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
            case = KINDS[kind](folder, random.Random(name))
            answer = worker.ask(folder, case.arguments, args.limit)
            faults = judge(case, answer)
            verdicts.update(fault.partition(":")[0] for fault in faults)
            verdicts[f"{kind} cases"] += 1
            verdicts[f"exit {answer.get('code')}"] += 1
            if faults:
                write_down(args.keep, name, folder, case, answer, faults)
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        worker.end()
    return verdicts


def replay(name: str, limit_seconds: float) -> int:
    """One case again, made by its name, with its answer on stdout."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    case, worker = KINDS[name.partition("-")[0]](folder, random.Random(name)), Worker()
    try:
        answer = worker.ask(folder, case.arguments, limit_seconds)
    finally:
        worker.end()
    faults = judge(case, answer)
    answer = {key: str(value)[-2000:] for key, value in answer.items()}
    facts = {"arguments": case.arguments, "answer": answer, "faults": faults}
    print(json.dumps(facts, indent=1, ensure_ascii=False))
    shutil.rmtree(folder, ignore_errors=True)
    return int(bool(faults))


def write_down(
    keep: Path | None, name: str, folder: Path, case: Case, answer: Any, faults: list[str]
) -> None:
    print(f"{name}: {'; '.join(faults)}", file=sys.stderr)
    if keep is None:
        return
    target = keep / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    subprocess.run(["cp", "-a", f"{folder}/.", str(target)], check=True)  # pipes and links too
    facts = {"arguments": case.arguments, "faults": faults, "answer": answer}
    (target / "verdict.json").write_text(json.dumps(facts, indent=1))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--what", nargs="+", choices=[*KINDS, "all"], default=["all"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--limit", type=float, default=30, help="seconds a case may take")
    parser.add_argument("--keep", type=Path, help="a folder for the cases that failed")
    parser.add_argument("--replay", metavar="NAME", help="one case by its name, such as data-0-17")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work()
        return 0
    if args.replay:
        return replay(args.replay, args.limit)
    what = list(KINDS) if "all" in args.what else args.what
    until = time.monotonic() + args.seconds
    total: Counter[str] = Counter()
    with ThreadPoolExecutor(args.processes) as threads:
        seeds = [args.seed * 1000 + number for number in range(args.processes)]
        for found in threads.map(lambda seed: loop(what, seed, until, args), seeds):
            total += found
    for name, num in sorted(total.items()):
        print(f"{name:>24} {num}")
    good = {f"{kind} cases" for kind in KINDS} | {f"exit {code}" for code in EXIT_CODES}
    return int(bool(total.keys() - good))


if __name__ == "__main__":
    sys.exit(main())
