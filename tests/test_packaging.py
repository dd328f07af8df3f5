"""What is installed: the source distribution as Beam builds it for `--setup_file`, and its metadata."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Name in `install_requires` -> names that it is imported by, where these differ.
IMPORTED_AS = {
    "apache-beam": {"apache_beam"},
    "tensorflow-datasets": {"tensorflow_datasets"},
    "google-cloud-storage": {"google.cloud"},
    "google-crc32c": {"google_crc32c"},
    "protobuf": {"google.protobuf"},
    "grpcio": {"grpc"},
    "pillow": {"PIL"},
    "pyyaml": {"yaml"},
}


def run(*arguments, **options):
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folder in which the source distribution is installed, without what it requires."""
    pytest.importorskip("setuptools", reason="builds a source distribution")
    folder = tmp_path_factory.mktemp("package")
    source, dist, target = (folder / name for name in ("source", "dist", "target"))
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "wsss"):  # egg-info stays out of ours
        (source / name).symlink_to(ROOT / name)
    run("setup.py", "-q", "sdist", "--dist-dir", str(dist), cwd=source)
    (archive,) = dist.glob("*.tar.gz")
    pip = ("-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index")
    run(*pip, "--target", str(target), str(archive))
    return target


@pytest.mark.slow
def test_the_distribution_that_beam_builds_holds_the_program_and_no_other_top_level_package(installed):
    packages = {path.parent.name for path in installed.glob("*/__init__.py")}
    assert packages == {"wsss"}
    assert (installed / "wsss" / "py.typed").exists()
    assert list(installed.glob("*.dist-info/**/LICENSE"))
    templates = sorted(path.name for path in (ROOT / "wsss/pipeline/report/templates").iterdir())
    assert sorted(path.name for path in (installed / "wsss/pipeline/report/templates").iterdir()) == templates
    code = "import wsss.pseudo_labels; print(wsss.pseudo_labels.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    assert run("-c", code, cwd=installed, env=environment).startswith(str(installed))


@pytest.mark.slow
def test_the_distribution_has_the_version_and_the_console_program(installed):
    import wsss

    (metadata,) = installed.glob("wsss-*.dist-info")
    assert f"\nVersion: {wsss.__version__}\n" in (metadata / "METADATA").read_text()
    assert "wsss = wsss.__main__:main" in (metadata / "entry_points.txt").read_text()


REFINE = """
import io
import numpy as np
from PIL import Image
from wsss.data.records import Record
from wsss.pipeline.stages import refine
from wsss.pipeline.stages.read import InputImage
from wsss.refine import edge_affinity, pair_affinity, random_walk
from wsss.refine.affinity import pair_offsets
from wsss.refine.warm_up import count_compiled

random = np.random.default_rng(0)
encoded = io.BytesIO()
Image.fromarray(random.integers(256, size=(50, 40, 3), dtype=np.uint8)).save(encoded, "JPEG")
record = Record("image", encoded.getvalue(), (), height=40, width=50, orientation=6)
image = InputImage("shard", record, False)
background = refine.Background(threshold=0.2)
for classes in (1, 2, 5, 9, 20, 40):
    scores = random.random((classes, 40, 50), dtype=np.float32)
    scored = refine.ScoredImage(image, tuple(range(classes)), scores, scores.max(axis=(1, 2)))
    for preset in ("seam", "fast"):
        for unary in ("labels", "probabilities"):
            refine._refine_crf(scored, background, preset, unary, None)
    refine._label_affinity(scored, "seam", 4.0, 24.0)
    refine._label_irn(scored, "irn")
    walked = np.moveaxis(scores, 0, -1)
    pairs = np.moveaxis(random.random((len(pair_offsets(5)), 40, 50), dtype=np.float32), 0, -1)
    random_walk(walked, pair_affinity(pairs, 5), steps=8)
    random_walk(walked, edge_affinity(random.random((40, 50))), beta=10, steps=8)
print(count_compiled())
"""


@pytest.mark.slow
def test_the_worker_image_is_built_with_all_kernels_that_a_worker_process_calls(installed, tmp_path):
    dockerfile = (ROOT / "pipelines/Dockerfile").read_text()
    processor = dict(re.findall(r"(NUMBA_CPU_\w+)=(\S+)", dockerfile))
    (command,) = re.findall(r"python -m (wsss\S+)", dockerfile)
    environment = os.environ | {"PYTHONPATH": str(installed), "NUMBA_CACHE_DIR": str(tmp_path)}
    environment |= {name: value.strip('"') for name, value in processor.items()}
    first, second = (run("-m", command, cwd=tmp_path, env=environment) for _ in range(2))
    assert int(first.split()[0]) > 20
    assert int(second.split()[0]) == 0
    assert run("-c", REFINE, cwd=tmp_path, env=environment).split() == ["0"]


def test_everything_that_is_imported_is_declared():
    setup = ast.parse((ROOT / "setup.py").read_text())
    (lines,) = (
        ast.literal_eval(node.value)
        for node in ast.walk(setup)
        if isinstance(node, ast.keyword) and node.arg == "install_requires"
    )
    declared = {re.match(r"[\w-]+", line)[0] for line in lines}
    allowed = set().union(*(IMPORTED_AS.get(name, {name}) for name in declared)) | {"wsss"}
    allowed |= {"jax", "torch"}  # extras, imported where they are Keras's backend
    assert {
        f"{path.name} imports {name}"
        for path in (ROOT / "wsss").rglob("*.py")
        for name in imported_packages(path)
        if name not in allowed | sys.stdlib_module_names
    } == set()


def imported_packages(path):
    """Top-level packages that a file imports; of Google's, the second level too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module]
        for name in names:
            parts = name.split(".")
            yield ".".join(parts[:2]) if parts[0] == "google" else parts[0]
