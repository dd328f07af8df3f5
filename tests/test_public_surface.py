"""What `import wsss` offers: public names and sub-packages on first use, the console program."""

import importlib
import subprocess
import sys
from importlib import metadata

import pytest

import wsss
from wsss.__main__ import COMMANDS, main


@pytest.mark.parametrize("name", sorted(set(wsss.__all__) - {"__version__"}))
def test_a_public_name_is_what_its_module_calls_it(name):
    assert getattr(wsss, name).__name__ == name
    assert name in dir(wsss)


@pytest.mark.parametrize("name", ["models", "refine", "utils", "backbones", "metrics", "inference"])
def test_sub_packages_are_attributes(name):
    code = f"import wsss; assert wsss.{name}.__name__ == 'wsss.{name}'"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Seam'"):
        _ = wsss.Seam


def test_importing_the_package_is_light():
    code = (
        "import sys, wsss; sys.exit(bool({'tensorflow', 'keras', 'numpy', 'apache_beam'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_command_has_a_main_and_a_line_in_the_help(capsys):
    assert main(["help"]) == main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in COMMANDS:
        assert callable(importlib.import_module(f"wsss.{name}").main)
        assert f"  {name} " in text


def test_a_command_runs_with_its_own_flags(capsys):
    assert main(["report", "nowhere"]) == 2
    assert "nowhere holds no pseudo labels that wsss wrote" in capsys.readouterr().err


def test_an_unknown_command_is_one_line(capsys):
    assert main(["prepaer"]) == 2
    assert capsys.readouterr().err.startswith("error: Unknown command `prepaer`. Did you mean `prepare`?")


def test_the_version_stands_in_one_place(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"wsss {wsss.__version__}\n"
    try:
        assert metadata.version("wsss") == wsss.__version__
    except metadata.PackageNotFoundError:
        pytest.skip("the package is not installed here")
