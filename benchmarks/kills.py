"""Every program killed while it writes, and run again: the same bytes as without the kill, and nothing lost.

    python -m benchmarks.kills --kills 20
    python -m benchmarks.kills --program train --seed 7

Baseline: the bytes of one undisturbed run of the same command. The kills (SIGKILL, to all processes of the
program) lie evenly over the files that it opens, renames and removes, a third of them some milliseconds
later, inside of what follows. Then the same command runs again. `identical` counts the outputs that equal the
baseline; `lost` those where a file of the user's changed, an input, or with `--overwrite` an old result
before the new ones were complete. The exit code is 1 unless all are identical and none is lost.

Programs run in forks of a process that has imported TensorFlow and Beam but not used them, which saves their
start; workers of Beam are processes of their own. The time and the addresses of objects in `model.keras`, and
TensorBoard's files, which bear the time in name and content, are not compared.
"""

import argparse
import importlib
import io as streams
import os
import random
import re
import shutil
import sys
import tempfile
import traceback
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.kill_switch import arm
from wsss.common.tf_import import import_tensorflow

ROOT = Path(__file__).resolve().parents[1]
KEPT = ".notes"  # a file of the user's in every output folder
LONGEST_DELAY = 0.005  # seconds
QUICK_KILLS = 1
_SHARED_ID = re.compile(rb'"shared_object_id": \d+')
QUICK = ("prepare overwrite", "pseudo_labels png", "evaluate overwrite", "convert keras")
PRELOADED = (
    *("keras", "apache_beam", "h5py", "matplotlib.pyplot", "wsss.models"),
    *("wsss.pipeline.job", "wsss.pipeline.preparation", "wsss.training.loop", "wsss.weights.published"),
)
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
        old: command line of a run whose results this one replaces, or none.
        prepare: called in the process of the program before it begins.
    """

    program: str
    mode: str
    output: Path
    arguments: list[str]
    inputs: tuple[Path, ...]
    old: list[str] | None = None
    prepare: Callable[[], None] | None = None

    @property
    def folder(self):
        """The folder that holds the output and the user's file."""
        return self.output.parent if self.output.suffix else self.output


@dataclass
class Outcome:
    """What the kills of a case came to."""

    kills: int = 0
    landed: int = 0
    identical: int = 0
    lost: int = 0

    @property
    def is_clean(self):
        return self.identical == self.kills and not self.lost


def forked(function: Callable[[], int | None], log: Path) -> int:
    """Runs a function in a process group of its own; its exit code, negative for a signal."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    code = 70
    try:
        os.setsid()
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


def run(case: Case, arguments: list[str], log: Path, last: int = 0, delay: float = 0.0) -> tuple[int, int]:
    """Runs the program of a case, with the kill switch armed; its exit code, and its number of events."""
    events = log.with_suffix(".events")
    events.unlink(missing_ok=True)

    def program():
        arm(os.path.realpath(case.folder), str(events), last, delay)
        if case.prepare:
            case.prepare()
        return importlib.import_module(f"wsss.{case.program}").main(arguments)

    code = forked(program, log)
    return code, events.stat().st_size if events.exists() else 0


def content(path: Path) -> dict[str, object]:
    """What is compared of a file or of the files in a folder, by relative path."""
    if path.is_file():
        return {"": comparable(path)}
    files = [file for file in path.rglob("*") if file.is_file()]
    names = {file.relative_to(path).as_posix(): file for file in files}
    return {
        name: comparable(file) for name, file in sorted(names.items()) if not name.startswith("tensorboard/")
    }


def comparable(path: Path):
    """The content of a file without the time at which it was written, and Keras' addresses of objects."""
    data = path.read_bytes()
    if path.suffix == ".keras" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(streams.BytesIO(data)) as archive:
            names = set(archive.namelist()) - {"metadata.json"}
            return {name: _SHARED_ID.sub(b"", archive.read(name)) for name in sorted(names)}
    return data


def run_case(case: Case, kills: int, seed: int, log: Path) -> Outcome:
    """Kills a program `kills` times, each time from the start; prints what differs."""
    inputs = [content(path) for path in case.inputs]
    log.unlink(missing_ok=True)
    begin(case, log)
    code, events = run(case, case.arguments, log)
    if code:
        sys.exit(f"{case.program} {case.mode} fails without a kill:\n{log.read_text()}")
    expected, outcome = content(case.folder), Outcome()
    for index in range(kills):
        rng = random.Random(f"{seed}:{case.program}:{case.mode}:{index}")
        last = 1 + min(int((index + rng.random()) * events / kills), events - 1)
        delay = rng.uniform(0, LONGEST_DELAY) if index % 3 == 2 else 0.0
        log.unlink()
        problems = kill_once(case, log, last, delay, expected, outcome)
        if [content(path) for path in case.inputs] != inputs:
            problems.append("an input changed")
            outcome.lost += 1
        if problems:
            place = f"event {last} of {events}, delay {delay:.3f} s"
            print(f"--- {case.program} {case.mode}, {place}: {'; '.join(problems)}", file=sys.stderr)
            print(log.read_text()[-2000:], file=sys.stderr)
    shutil.rmtree(case.folder)
    return outcome


def begin(case: Case, log: Path) -> None:
    """Makes the output folder: with a file of the user's, and old results where a case has them."""
    shutil.rmtree(case.folder, ignore_errors=True)
    case.folder.mkdir(parents=True)
    (case.folder / KEPT).write_text("mine")
    if case.old:
        code, _ = run(case, case.old, log)
        if code:
            sys.exit(f"{case.program} {case.mode}: the run to be replaced fails:\n{log.read_text()}")


def kill_once(case, log, last, delay, expected, outcome) -> list[str]:
    """One kill, and the same command again; what was wrong, in words."""
    begin(case, log)
    before = content(case.folder)
    code, _ = run(case, case.arguments, log, last, delay)
    outcome.kills += 1
    outcome.landed += code == -9
    problems, after = [], content(case.folder)
    complete = after == expected or (case.folder / ".new" / ".ready").exists()
    gone = [] if complete else [name for name in before if after.get(name) != before[name]]
    if gone:
        outcome.lost += 1
        problems.append(f"lost after the kill: {', '.join(gone[:5])}")
    if code == -9:
        code, _ = run(case, case.arguments, log)
    found = content(case.folder)
    refused = code == 2 and after == expected  # what is complete already is not replaced without being asked
    if code and not refused:
        problems.append(f"exit code {code}")
    names = sorted(set(found) | set(expected))
    different = [name for name in names if found.get(name) != expected.get(name)]
    if different:
        problems.append(f"differs: {', '.join(different[:5])}")
    outcome.identical += not different and (not code or refused)
    return problems


def make_cases(folder: Path) -> list[Case]:
    """The programs in their modes, and in forks all that they read."""
    from tests.pseudo_label_cases import FLAGS
    from tests.training.small_runs import command_line, draw_collection

    photographs, table = folder / "photographs", folder / "tags.csv"
    data, trained, labels = folder / "collection", folder / "trained", folder / "labels"
    scenes = folder / "scenes"
    weights, output = folder / "weights.pth", folder / "output"
    for make in (
        lambda: make_photographs(photographs, table),
        lambda: draw_collection(scenes) and None,
        lambda: make_trained_run(trained, data),
        lambda: make_labels(labels, trained),
        lambda: make_published_weights(weights),
    ):
        if forked(make, folder / "setup.log"):
            sys.exit((folder / "setup.log").read_text())

    source = ["--images", str(photographs), "--labels", str(table), "--shards", "4"]
    label = [*FLAGS, "--model", str(trained), "--save_scores", "--images_per_wave", "4"]
    predict = [*FLAGS, "--model", str(trained), "--images", str(photographs), "--images_per_shard", "4"]
    predict += ["--images_per_wave", "4"]
    evaluate = ["--predictions", str(labels / "scores"), "--truth", str(data)]
    train = command_line(str(scenes), str(output), epochs=2, checkpoint_steps=2, on_divergence="continue")
    to = ["--output", str(output)]
    converted = folder / "converted" / "model.keras"
    read = (photographs, table)
    other = [*label, *to, "--background_alpha", "4"]

    def case(program, mode, arguments, inputs, old=None):
        return Case(program, mode, output, [*arguments, *to], inputs, old)

    return [
        case("prepare", "local", source, read),
        case("prepare", "overwrite", [*source, "--overwrite"], read, [*source[:-1], "2", *to]),
        case("prepare", "multi-process", [*source, *WORKERS], read),
        Case("train", "local", output, train, (scenes,)),
        Case("train", "overwrite", output, [*train, "--overwrite"], (scenes,), [*train, "--seed", "5"]),
        case("pseudo_labels", "png", label, (data, trained)),
        case("pseudo_labels", "overwrite", [*label, "--overwrite"], (data, trained), other),
        case("pseudo_labels", "tfrecord", [*label, "--output_format", "tfrecord"], (data, trained)),
        case("pseudo_labels", "multi-process", [*label, *WORKERS], (data, trained)),
        case("predict", "png", predict, (photographs, trained)),
        case("predict", "multi-process", [*predict, *WORKERS], (photographs, trained)),
        case("evaluate", "local", evaluate, (labels, data)),
        case(
            "evaluate",
            "overwrite",
            [*evaluate, "--overwrite"],
            (labels, data),
            [*evaluate, *to, "--background_threshold", "0.7"],
        ),
        Case(
            "convert", "keras", converted, [str(weights), str(converted)], (weights,), None, narrow_networks
        ),
    ]


def make_photographs(folder, table):
    from tests.pseudo_label_cases import make_records

    rows, folder = ["id,cat,dog"], Path(folder)
    folder.mkdir()
    for record in make_records():
        (folder / f"{record.image_id}.png").write_bytes(record.image_bytes)
        rows.append(f"{record.image_id},{int(0 in record.labels)},{int(1 in record.labels)}")
    table.write_text("\n".join(rows) + "\n")


def make_trained_run(folder, data):
    from tests.pseudo_label_cases import make_records, write_collection, write_run

    data.mkdir()
    folder.mkdir()
    write_collection(str(data), make_records())
    write_run(folder, data)


def make_labels(folder, trained):
    from tests.pseudo_label_cases import label

    return label(folder, str(trained))


def narrow_networks():
    """Lets the program build its networks with 1/32 of the channels."""
    from wsss.weights import published

    build = published.build_network
    published.build_network = lambda *args, **kwargs: build(*args, width=1 / 32, **kwargs)


def make_published_weights(path):
    from tests.test_convert import random_tensors, write_torch
    from wsss.weights.published import build_network

    write_torch(path, random_tensors(build_network("seam", 3, width=1 / 32)))


def preload(folder: Path) -> None:
    """Imports what every fork needs, and gives the Python processes that they start the kill switch."""
    import_tensorflow(onednn=True)
    for name in PRELOADED:
        importlib.import_module(name)
    text = "from benchmarks.kill_switch import arm_from_environment\n\narm_from_environment()\n"
    (folder / "sitecustomize.py").write_text(text)
    paths = [str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--kills", type=int, default=20, help="of each program in each mode; default 20")
    parser.add_argument("--program", default="", help="one program only; default: all")
    parser.add_argument("--mode", default="", help="one mode only; default: all")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_KILLS} kill of {', '.join(QUICK)}")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(os.path.realpath(name))
        preload(folder)
        cases = make_cases(folder)
        if options.quick:
            options.kills, cases = QUICK_KILLS, [c for c in cases if f"{c.program} {c.mode}" in QUICK]
        cases = [c for c in cases if options.program in ("", c.program) and options.mode in ("", c.mode)]
        print(f"seed {options.seed}\n{'program':14s} {'mode':14s} {'kills':>6s} {'landed':>7s}", end="")
        print(f" {'identical':>9s} {'lost':>5s}", flush=True)
        outcomes = []
        for case in cases:
            outcome = run_case(case, options.kills, options.seed, folder / "log")
            outcomes.append(outcome)
            print(
                f"{case.program:14s} {case.mode:14s} {outcome.kills:6d} {outcome.landed:7d} "
                f"{outcome.identical:9d} {outcome.lost:5d}",
                flush=True,
            )
    return 0 if all(outcome.is_clean for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
