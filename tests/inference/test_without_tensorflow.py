"""`import wsss` and `CamPredictor` work under JAX where TensorFlow is not installed."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import sys
class NoTensorFlow:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "tensorflow_datasets"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, NoTensorFlow())
import json
import numpy as np
import wsss
from wsss.inference import AffinityPredictor, CamPredictor, load_model
from wsss.backbones.tiny import small_backbone
from wsss.models import SEAM, AffinityNet
import keras
assert keras.backend.backend() == "jax"
keras.utils.set_random_seed(0)
backbone = small_backbone(16, width=8)
model = SEAM(backbone.input, backbone.feature, 3, correlation_feature=backbone.correlation_feature())
model.save(sys.argv[1])
predictor = CamPredictor(load_model(sys.argv[1]), scales=(0.5, 1.0), max_compiled_sizes=2)
rng = np.random.default_rng(0)
for size in [(24, 32), (24, 32), (40, 16)]:
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(2)]
    predictions = predictor.predict(images)
x = np.float32(images)[:1] / 255
expected = np.asarray(model.refined_cam(x, training=False))[0]
mirrored = np.asarray(model.refined_cam(x[:, :, ::-1], training=False))[0, :, ::-1]
error = np.abs(predictions[0].cams[1] - (expected + mirrored).transpose(2, 0, 1)).max()
print(json.dumps({
    "error": float(error),
    "compilations": predictor.compilations,
    "kept": len(predictor._forward._compiled),
    "settings": predictor.settings.device,
    "tensorflow": "tensorflow" in sys.modules,
}))
"""


def test_the_predictor_works_under_jax_without_tensorflow(tmp_path):
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed (pip install jax)")
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "model.keras")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["error"] < 1e-4
    assert result["compilations"] == 4  # two scales of two sizes, each once
    assert result["kept"] == 2
    assert result["settings"] == "cpu"
    assert not result["tensorflow"]
