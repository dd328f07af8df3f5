"""Metadata of `wsss`; Dataflow ships the package with `--setup_file ./setup.py`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
(VERSION,) = re.findall(
    r'^__version__ = "(.+)"$', (ROOT / "wsss/__init__.py").read_text(encoding="utf-8"), re.M
)

setup(
    name="wsss",
    version=VERSION,
    description="From image tags to segmentation masks, with Keras, tf.distribute and Apache Beam.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["wsss", "wsss.*"]),
    package_data={"wsss": ["py.typed"]},
    entry_points={"console_scripts": ["wsss = wsss.__main__:main"]},
    install_requires=[
        "tensorflow>=2.18",  # the backend that is shipped; tf.data and tf.distribute
        "keras>=3.8",
        "apache-beam[gcp]>=2.65",  # the pipeline; gcp: Dataflow and gs://
        "tensorflow-datasets>=4.9.7",  # the format on disk
        "google-cloud-storage>=2.14",
        "google-crc32c>=1.5",  # the checksums of TFRecord shards
        "numpy>=1.26",
        "numba>=0.61",  # the compiled kernels of dense CRF and random walk: wheels, no compiler
        "scipy>=1.11",
        "pillow>=10.1",
        "matplotlib>=3.8",
        "tqdm>=4.66",
    ],
    extras_require={
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.6",  # most tests keep one core busy; two processes take 0.6 of the time
            "hypothesis>=6.100",
            "opencv-python-headless>=4.9",  # the published snippet reads its image with cv2
            "gcp-storage-emulator>=2024.8.3",  # gs:// on loopback
            "ruff>=0.6",
        ],
        "docs": ["mkdocs-material>=9.6", "mkdocstrings[python]>=0.29"],  # the site: mkdocs build --strict
        "jax": ["jax>=0.4.30"],
        "torch": ["torch==2.13.0"],  # files written by the real one, and the baseline of benchmarks
    },
)
