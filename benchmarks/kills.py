"""Every program stopped while it writes, and run again: the same bytes as without the stop, and nothing lost.

    python -m benchmarks.kills --kills 20
    python -m benchmarks.kills --signal TERM --kills 5
    python -m benchmarks.kills --program train --seed 7

Baseline: the bytes of one undisturbed run of the same command. The stops (SIGKILL to all processes of the
program, or one of the signals that ask it to end) lie evenly over the files that it opens, renames and
removes, a third of them some milliseconds later, inside of what follows. Then the same command runs again.
`identical` counts the outputs that equal the baseline; `lost` those where a file of the user's changed, an
input, or with `--overwrite` an old result before the new ones were complete. After SIGINT and SIGTERM a
program must also end with code 130 or 143, with one line that says so, and leave no process behind. The exit
code is 1 unless all are identical and none is lost.

Programs run in forks of a process that has imported TensorFlow and Beam but not used them, and so do the
worker processes of Beam, which saves their start. TensorBoard's files, which bear the time in name and
content, are not compared. Training runs with `--deterministic`: without it the
rounding of two undisturbed runs differs.
"""

import argparse
import ctypes
import dataclasses
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import forked_workers
from benchmarks.kill_switch import arm
from wsss.common.output_folder import MARKER
from wsss.common.tf_import import import_tensorflow

SIGNALS = {name: signal.Signals[f"SIG{name}"] for name in ("KILL", "INT", "TERM")}
ROW = "{:14s} {:14s} {:>6} {:>7} {:>9} {:>5}"
ANNOUNCED = ("Interrupted", "Terminated")  # how the line begins
KEPT = ".notes"  # a file of the user's in every output folder
_SET_CHILD_SUBREAPER = 36  # of Linux's prctl
LONGEST_DELAY = 0.005  # seconds
QUICK_KILLS = 1
QUICK = ("prepare overwrite", "pseudo_labels png", "evaluate overwrite", "convert keras")
PRELOADED = (
    *("keras", "apache_beam", "h5py", "matplotlib.pyplot", "wsss.models"),
    *("wsss.pipeline.job", "wsss.pipeline.preparation", "wsss.training.loop", "wsss.weights.published"),
)
FLAGS = ("--runner=DirectRunner", "--scales", "1", "--previews", "1")
WORKERS = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")


@dataclass(frozen=True)
class Case:
    """A program in one of its modes.

    Attributes:
        program: name of the module in `wsss`.
        mode: what the table shows.
        output: where it writes: a file, or a folder.
        arguments: its command line.
        inputs: files and folders that it reads.
        old: what is in the folder before: the command line of a run whose results this one replaces, a folder
            with the same files, or nothing.
        prepare: called in the process of the program before it begins.
    """

    program: str
    mode: str
    output: Path
    arguments: list[str]
    inputs: tuple[Path, ...]
    old: list[str] | Path | None = None
    prepare: Callable[[], None] | None = None

    @property
    def folder(self):
        """The folder that holds the output and the user's file."""
        return self.output.parent if self.output.suffix else self.output


@dataclass(frozen=True)
class Stop:
    """When and how a program is stopped; see `kill_switch.arm`."""

    event: int
    delay: float
    signal: signal.Signals

    @property
    def code(self):
        """The exit code of a program that was stopped."""
        return -9 if self.signal == signal.SIGKILL else 128 + self.signal


NEVER = Stop(0, 0.0, signal.SIGKILL)


@dataclass
class Outcome:
    """What the stops of a case came to."""

    kills: int = 0
    landed: int = 0
    identical: int = 0
    lost: int = 0

    @property
    def is_clean(self):
        return self.identical == self.kills and not self.lost


def forked(function: Callable[[], int | None], log: Path) -> tuple[int, bool]:
    """Runs a function in a process group of its own.

    Returns:
        Its exit code, negative for a signal, and whether it left processes behind.
    """
    sys.stdout.flush()
    process = os.fork()
    if process:
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        return code, not is_gone(process)
    code = 70
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
        written = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        for number in (1, 2):
            os.dup2(written, number)
        code = function() or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def is_gone(group: int) -> bool:
    """Whether all processes of a group end, some seconds after the first; those that do not are killed."""
    for _ in range(1000):
        if reaped(group):
            return True
        time.sleep(0.01)
    os.killpg(group, signal.SIGKILL)
    while not reaped(group):
        time.sleep(0.01)
    return False


def reaped(group: int) -> bool:
    """Takes the exit codes of processes of a group, all of them orphans here; whether that was the last."""
    try:
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return True
    return False


def adopt_orphans() -> None:
    """Makes this process the parent of processes whose own has ended, where the system can do that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1)


def run(case: Case, arguments: list[str], log: Path, stop: Stop = NEVER) -> tuple[int, bool, int]:
    """Runs the program of a case; as `forked`, and the number of its events."""
    events = log.with_suffix(".events")
    events.unlink(missing_ok=True)

    def switch():
        arm(os.path.realpath(case.folder), str(events), stop.event, stop.delay, stop.signal)

    def program():
        forked_workers.start(switch)
        switch()
        if case.prepare:
            case.prepare()
        return importlib.import_module(f"wsss.{case.program}").main(arguments)

    code, leaves = forked(program, log)
    return code, leaves, events.stat().st_size if events.exists() else 0


def content(path: Path) -> dict[str, bytes]:
    """What is compared of a file or of the files in a folder, by relative path."""
    if path.is_file():
        return {"": path.read_bytes()}
    files = [file for file in path.rglob("*") if file.is_file()]
    names = {file.relative_to(path).as_posix(): file for file in files}
    return {name: file.read_bytes() for name, file in sorted(names.items()) if "tensorboard/" not in name}


def run_case(case: Case, kills: int, seed: int, log: Path, number=signal.SIGKILL) -> Outcome:
    """Stops a program `kills` times, each time from the start; prints what differs."""
    inputs = [content(path) for path in case.inputs]
    log.unlink(missing_ok=True)
    before = make_start(case, log)
    begin(case, before)
    code, _, events = run(case, case.arguments, log)
    if code:
        sys.exit(f"{case.program} {case.mode} fails without a kill:\n{log.read_text()}")
    expected, outcome = content(case.folder), Outcome()
    for index in range(kills):
        rng = random.Random(f"{seed}:{case.program}:{case.mode}:{index}")
        event = 1 + min(int((index + rng.random()) * events / kills), events - 1)
        stop = Stop(event, rng.uniform(0, LONGEST_DELAY) if index % 3 == 2 else 0.0, number)
        log.unlink()
        begin(case, before)
        problems = stop_once(case, log, stop, expected, outcome)
        if [content(path) for path in case.inputs] != inputs:
            problems.append("an input changed")
            outcome.lost += 1
        if problems:
            place = f"event {event} of {events}, delay {stop.delay:.3f} s"
            print(f"--- {case.program} {case.mode}, {place}: {'; '.join(problems)}", file=sys.stderr)
            print(log.read_text()[-2000:], file=sys.stderr)
    shutil.rmtree(case.folder)
    shutil.rmtree(before)
    return outcome


def make_start(case: Case, log: Path) -> Path:
    """Makes what is in the output folder before each run: a file of the user's, and maybe old results."""
    shutil.rmtree(case.folder, ignore_errors=True)
    if isinstance(case.old, Path):
        shutil.copytree(case.old, case.folder)
    case.folder.mkdir(parents=True, exist_ok=True)
    (case.folder / KEPT).write_text("mine")
    if isinstance(case.old, list) and run(case, case.old, log)[0]:
        sys.exit(f"{case.program} {case.mode}: the run to be replaced fails:\n{log.read_text()}")
    return case.folder.rename(case.folder.with_name("before"))


def begin(case: Case, before: Path) -> None:
    """Makes the output folder as it is before each run."""
    shutil.rmtree(case.folder, ignore_errors=True)
    shutil.copytree(before, case.folder)


def stop_once(case: Case, log: Path, stop: Stop, expected: dict, outcome: Outcome) -> list[str]:
    """One stop, and the same command again; what was wrong, in words."""
    before = content(case.folder)
    code, leaves, _ = run(case, case.arguments, log, stop)
    landed = code == stop.code
    outcome.kills += 1
    outcome.landed += landed
    problems, after = [], content(case.folder)
    if stop.signal != signal.SIGKILL:
        problems += what_it_said(log.read_text(), landed, leaves)
    complete = after == expected or (case.folder / ".new" / ".ready").exists()
    old = before.keys() - {MARKER}  # which lists the files of the new results too
    gone = [] if complete else [name for name in sorted(old) if after.get(name) != before[name]]
    if gone:
        outcome.lost += 1
        problems.append(f"lost after the stop: {', '.join(gone[:5])}")
    if not landed and code:
        problems.append(f"exit code {code} after the stop")
    if code:
        code, _, _ = run(case, case.arguments, log)
    found = content(case.folder)
    refused = code == 2 and after == expected  # what is complete already is not replaced without being asked
    if code and not refused:
        problems.append(f"exit code {code}")
    names = sorted(set(found) | set(expected))
    different = [name for name in names if found.get(name) != expected.get(name)]
    if different:
        problems.append(f"differs: {', '.join(different[:5])}")
    outcome.identical += not problems
    return problems


def what_it_said(text: str, landed: bool, leaves: bool) -> list[str]:
    """What is wrong about how a program ended that was asked to end."""
    problems = []
    if landed and sum(line.startswith(ANNOUNCED) for line in text.splitlines()) != 1:
        problems.append("not one line that says so")
    if "Traceback" in text:
        problems.append("a traceback")
    if leaves:
        problems.append("processes that go on")
    return problems


def make_cases(folder: Path) -> list[Case]:
    """The programs in their modes, and in forks all that they read."""
    from tests.training.small_runs import command_line, draw_collection

    photographs, table = folder / "photographs", folder / "tags.csv"
    data, trained, labels = folder / "collection", folder / "trained", folder / "labels"
    scenes, reported = folder / "scenes", folder / "reported"
    weights, output = folder / "weights.pth", folder / "output"
    for make in (
        lambda: make_photographs(photographs, table),
        lambda: draw_collection(scenes) and None,
        lambda: make_trained_run(trained, data),
        lambda: make_labels(labels, trained, reported),
        lambda: make_published_weights(weights),
    ):
        if forked(make, folder / "setup.log")[0]:
            sys.exit((folder / "setup.log").read_text())

    tfrecord = ["--output_format", "tfrecord"]
    source = ["--images", str(photographs), "--labels", str(table), "--shards", "2"]
    label = [*FLAGS, "--model", str(trained), "--save_scores", "--images_per_wave", "4"]
    predict = [*FLAGS, "--model", str(trained), "--images", str(photographs), "--images_per_shard", "4"]
    predict += ["--images_per_wave", "4"]
    evaluate = ["--predictions", str(labels / "scores"), "--truth", str(data)]
    flags = {"epochs": 2, "checkpoint_steps": 2, "on_divergence": "continue", "val_images": 2}
    train = [*command_line(str(scenes), str(output), **flags), "--deterministic"]
    to = ["--output", str(output)]
    read, learned = (photographs, table), (data, trained)
    keras_file, weights_file = (folder / "converted" / name for name in ("model.keras", "model.weights.h5"))
    other = [*label, *to, "--background_alpha", "4"]
    small = "--output_stride 8 --image_size 32 --long_side 32,40 --batch_size 4 --epochs 1 --deterministic"
    project = ["--data", str(scenes), "--backbone", "small", "--backbone_weights", "none"]
    project += ["--cam_options", f"{small} --on_divergence continue", "--segmentation_options", small]
    project += ["--label_options", "--scales 1 --previews 1 --images_per_wave 8"]
    export = [str(labels), "--format", "coco"]
    relabel = ["--runner=DirectRunner", "--images_per_wave", "4", "--background_threshold", "0.4"]
    scored = [str(labels), "--save_scores", *to]

    def case(program, mode, arguments, inputs, old=None):
        return Case(program, mode, output, [*arguments, *to], inputs, old)

    def convert(mode, path, *flags, old=None):
        arguments = [str(weights), str(path)]
        return Case("convert", mode, path, [*arguments, *flags], (weights,), old, narrow_networks)

    return [
        case("prepare", "local", source, read),
        case("prepare", "overwrite", [*source, "--overwrite"], read, [*source[:-1], "3", *to]),
        case("prepare", "multi-process", [*source, *WORKERS], read),
        Case("train", "local", output, train, (scenes,)),
        Case("train", "overwrite", output, [*train, "--overwrite"], (scenes,), [*train, "--seed", "5"]),
        case("pseudo_labels", "png", label, learned),
        case("pseudo_labels", "overwrite", [*label, "--overwrite"], learned, other),
        case("pseudo_labels", "tfrecord", [*label, *tfrecord], learned),
        case("pseudo_labels", "multi-process", [*label, *WORKERS], learned),
        case("relabel", "png", [str(labels), *relabel], (labels, data)),
        case("relabel", "overwrite", [str(output), *relabel, "--overwrite"], (data,), scored),
        case("predict", "png", predict, (photographs, trained)),
        case("predict", "tfrecord", [*predict, *tfrecord], (photographs, trained)),
        case("predict", "multi-process", [*predict, *WORKERS], (photographs, trained)),
        case("evaluate", "local", evaluate, (labels, data)),
        case(
            "evaluate",
            "overwrite",
            [*evaluate, "--overwrite"],
            (labels, data),
            [*evaluate, *to, "--background_threshold", "0.7"],
        ),
        Case("report", "local", output, [str(output)], (), reported),
        case("run", "local", project, (scenes,)),
        case("export", "local", export, (labels, data)),
        case(
            "export",
            "overwrite",
            [*export, "--overwrite"],
            (labels, data),
            [str(labels), "--format", "voc", *to],
        ),
        convert("keras", keras_file),
        convert("overwrite", keras_file, "--overwrite", old=folder / "old"),
        convert("weights.h5", weights_file),
    ]


def make_records():
    """Six images of one size, so that one function is traced."""
    from tests import pseudo_label_cases

    return [record for record in pseudo_label_cases.make_records() if record.width == 32]


def make_photographs(folder, table):
    rows, folder = ["id,cat,dog"], Path(folder)
    folder.mkdir()
    for record in make_records():
        (folder / f"{record.image_id}.png").write_bytes(record.image_bytes)
        rows.append(f"{record.image_id},{int(0 in record.labels)},{int(1 in record.labels)}")
    table.write_text("\n".join(rows) + "\n")


def make_trained_run(folder, data):
    from tests.pseudo_label_cases import write_collection, write_run

    data.mkdir()
    folder.mkdir()
    write_collection(str(data), make_records())
    write_run(folder, data)


def make_labels(folder, trained, reported):
    """Pseudo labels, and the same with another report."""
    from tests.pseudo_label_cases import label

    code = label(folder, str(trained))
    shutil.copytree(folder, reported)
    (reported / "report.html").write_text("old")
    return code


def narrow_networks():
    """Lets the program build its networks with 1/32 of the channels."""
    from wsss.weights import published

    build = published.build_network
    published.build_network = lambda *args, **kwargs: build(*args, width=1 / 32, **kwargs)


def make_published_weights(path):
    from tests.test_convert import random_tensors, write_torch
    from wsss.weights.published import build_network

    (path.parent / "old").mkdir()
    (path.parent / "old" / "model.keras").write_text("old")
    write_torch(path, random_tensors(build_network("seam", 3, width=1 / 32)))


def preload() -> None:
    """Imports what every fork needs."""
    adopt_orphans()
    import_tensorflow(onednn=True)
    for name in PRELOADED:
        importlib.import_module(name)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--kills", type=int, default=20, help="of each program in each mode; default 20")
    parser.add_argument("--program", default="", help="one program only; default: all")
    parser.add_argument("--mode", default="", help="one mode only; default: all")
    parser.add_argument("--signal", choices=SIGNALS, default="KILL", help="default KILL")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_KILLS} kill of {', '.join(QUICK)}")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(os.path.realpath(name))
        preload()
        cases = make_cases(folder)
        if options.quick:
            options.kills, cases = QUICK_KILLS, [c for c in cases if f"{c.program} {c.mode}" in QUICK]
        cases = [c for c in cases if options.program in ("", c.program) and options.mode in ("", c.mode)]
        print(f"seed {options.seed}, {SIGNALS[options.signal].name}")
        print(ROW.format("program", "mode", "kills", "landed", "identical", "lost"), flush=True)
        outcomes = []
        for case in cases:
            outcome = run_case(case, options.kills, options.seed, folder / "log", SIGNALS[options.signal])
            outcomes.append(outcome)
            print(ROW.format(case.program, case.mode, *dataclasses.astuple(outcome)), flush=True)
    return 0 if all(outcome.is_clean for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
