"""Metadata of `wsss`; a job without our worker image ships the package with `--setup_file ./setup.py`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
# Read as text: importing the package would need what is about to be installed.
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "wsss/__init__.py").read_text("utf-8"), re.M)[1]

setup(
    name="wsss",
    version=VERSION,
    description="From image tags to segmentation masks, with Keras, tf.distribute and Apache Beam.",
    long_description=(ROOT / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords="weakly supervised semantic segmentation, class activation map, pseudo label, SEAM, Keras, Beam",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3 :: Only",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in (10, 11, 12, 13)),
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=find_packages(include=["wsss", "wsss.*"]),
    package_data={"wsss": ["py.typed", "pipeline/report/templates/*"]},
    entry_points={"console_scripts": ["wsss = wsss.__main__:main"]},
    install_requires=[
        "tensorflow>=2.18",  # the backend that is shipped; tf.data and tf.distribute
        "keras>=3.12",  # 3.12: `searchsorted` in graphs, `remat`
        "apache-beam[gcp]>=2.65",  # the pipeline; gcp: Dataflow and gs://
        "tensorflow-datasets>=4.9.7",  # the format on disk
        "google-cloud-storage>=2.19",
        "google-crc32c>=1.5",  # the checksums of TFRecord shards
        "protobuf>=5.29",  # their records; TensorFlow and Beam bound it from above
        "grpcio>=1.65",  # the errors of a job server, to which Beam talks by it
        "numpy>=2.0",
        "numba>=0.61,<0.69",  # the compiled kernels of dense CRF and random walk: wheels, no compiler
        "llvmlite>=0.44,<0.51",  # vector types in these kernels; numba wants one minor version each
        "scipy>=1.13",
        "pillow>=10.1",
        "matplotlib>=3.8",
        "jinja2>=3.1",  # the page of the report
        "tqdm>=4.66",
        "pyyaml>=6.0",  # the class names of YOLO's data sets; Beam brings it too
    ],
    extras_require={
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.6",  # most tests keep one core busy; two processes take 0.6 of the time
            "hypothesis>=6.100",
            "pycocotools>=2.0.8",  # the reference of COCO's run lengths
            "opencv-python-headless>=4.9",  # the published snippet reads its image with cv2
            "gcp-storage-emulator>=2024.8.3",  # gs:// on loopback
            "setuptools>=68",  # the test of the source distribution
            "ruff>=0.6",
            "mypy>=1.14",
        ],
        "docs": ["mkdocs-material>=9.6", "mkdocstrings[python]>=0.29"],  # the site: mkdocs build --strict
        "jax": ["jax>=0.4.30"],
        "torch": ["torch>=2.5"],  # files written by the real one, and the baseline of benchmarks
    },
)
