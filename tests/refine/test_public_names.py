"""`wsss.refine` and `wsss.refine.crf` give their public names, whatever was imported before."""

import importlib
import subprocess
import sys

import pytest

import wsss.refine
import wsss.refine.crf


def test_every_public_name_is_there():
    assert sorted(wsss.refine.__all__) == wsss.refine.__all__
    for name in wsss.refine.__all__:
        assert getattr(wsss.refine, name).__name__ == name
    assert set(wsss.refine.__all__) <= set(dir(wsss.refine))


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'denoise'"):
        wsss.refine.denoise  # noqa: B018


def test_no_module_hides_a_public_name():
    """A sub-package's name would replace a lazy function of the same name once it is imported."""
    for name in wsss.refine.__all__:
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(f"wsss.refine.{name}")


def test_the_path_of_the_first_release_gives_the_same_classes():
    from wsss.refine import dense_crf

    for name in dense_crf.__all__:
        assert getattr(dense_crf, name) is getattr(wsss.refine.crf, name)


def test_importing_the_package_compiles_nothing():
    code = "import sys, wsss.refine; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
