"""README and docs: every command shown parses, every link within the project resolves."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from wsss.__main__ import COMMANDS
from wsss.common.cli import Parser
from wsss.common.errors import UserError
from wsss.pipeline.execution.runner import split_arguments

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
USER_PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [*USER_PAGES, ROOT / "CONTRIBUTING.md"]
TAKE_BEAM_FLAGS = {"wsss.prepare", "wsss.pseudo_labels", "wsss.relabel", "wsss.predict"}
TAKE_PIPELINE_FLAGS = {"wsss.predict"}
PATHS = [path.relative_to(ROOT).as_posix() for path in PAGES]


def commands(text):
    """The commands in the fenced `sh` blocks of a page, each a list of words."""
    for block in re.findall(r"^[ ]*```sh\n(.*?)^[ ]*```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for command in line.split("&&"):
                if words := shlex.split(command, comments=True):
                    yield words


def without_blocks(page):
    """A page's text without its fenced blocks."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^[ ]*```.*?^[ ]*```", "", text, flags=re.MULTILINE | re.DOTALL)


def called_program(words):
    """`(module, arguments)` of a command that runs one of our programs, else None."""
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # environment variables
        words = words[1:]
    if words[:2] == ["python", "-m"] and words[2].split(".")[0] in ("wsss", "benchmarks"):
        return words[2], words[3:]
    if words[:2] == ["python", "pipelines/pseudo_labels.py"]:
        return "wsss.pseudo_labels", words[2:]
    if words[:1] == ["wsss"]:
        return f"wsss.{words[1]}", words[2:]
    return None


def shown_programs():
    for page in PAGES:
        for words in commands(page.read_text(encoding="utf-8")):
            if called := called_program(words):
                yield pytest.param(*called, id=f"{page.relative_to(ROOT).as_posix()}: {shlex.join(words)}")


def help_of(module, arguments, capsys):
    """What a program prints for `--help` after the arguments, which argparse checks on the way."""
    try:
        code = importlib.import_module(module).main([*arguments, "--help"])
    except SystemExit as left:  # argparse's, after the help
        code = left.code
    out, error = capsys.readouterr()
    assert code == 0, error
    return out


def flags_in(text):
    return set(re.findall(r"--[A-Za-z][\w-]*", text))


@pytest.mark.parametrize(("module", "arguments"), shown_programs())
def test_every_command_shown_parses(module, arguments, capsys):
    assert (ROOT / (module.replace(".", "/") + ".py")).exists()
    known = flags_in(help_of(module, arguments, capsys))
    if module in TAKE_PIPELINE_FLAGS:
        known |= flags_in(help_of("wsss.pseudo_labels", [], capsys))
    unknown = [word for word in arguments if word.startswith("--") and word.split("=")[0] not in known]
    if module in TAKE_BEAM_FLAGS:
        split_arguments(unknown, Parser())  # raises where Beam does not know one
    else:
        assert unknown == []


def test_every_flag_named_in_the_text_exists(capsys):
    known = {"--quick", "--strict", "--build-arg", "--help"}  # of benchmarks, mkdocs and docker
    for program in COMMANDS:
        known |= flags_in(help_of(f"wsss.{program}", [], capsys))
    for page in USER_PAGES:
        text = without_blocks(page)
        for flag in sorted(set().union(*map(flags_in, re.findall(r"`([^`]+)`", text))) - known):
            assert is_beam_flag(flag), f"{page.name} names {flag}"


def is_beam_flag(flag):
    try:
        split_arguments([f"{flag}=1"], Parser())
    except UserError as error:
        return "Unknown" not in str(error)  # else 1 is no value of it
    return True


def test_a_wrong_flag_is_found(capsys):
    ((module, arguments),) = map(called_program, commands("```sh\npython -m wsss.train --modle seam\n```\n"))
    assert set(arguments) - flags_in(help_of(module, arguments, capsys)) == {"--modle", "seam"}
    with pytest.raises(UserError, match="--imagse"):
        split_arguments(["--imagse=x"], Parser())


def anchors(path):
    """The anchors of a page's headings, as Markdown renderers make them."""
    text = without_blocks(path)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}


@pytest.mark.parametrize("page", PATHS)
def test_every_link_within_the_project_resolves(page):
    page = ROOT / page
    text = without_blocks(page)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


def test_every_page_named_in_the_code_exists():
    for path in [*(ROOT / "wsss").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        for name in re.findall(r"\bdocs/[\w/]+\.md", path.read_text(encoding="utf-8")):
            assert (ROOT / name).exists(), f"{path} names {name}"


def test_readme_is_short_and_its_picture_small():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
        assert (README.parent / picture).stat().st_size < 150_000


def test_readme_holds_the_install_and_test_commands():
    shown = [" ".join(words) for words in commands(README.read_text(encoding="utf-8"))]
    assert shown[2:4] == ["pip install .", "python -m wsss.demo"]
    assert shown[4:6] == ["pip install .[test]", "python -m pytest -n 2 --dist loadfile"]


@pytest.mark.parametrize("module", sorted(path.stem for path in (ROOT / "wsss").glob("*.py")))
def test_every_top_level_module_has_its_place_in_architecture(module):
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert module.startswith("__") or re.search(rf"\b{module}\b", text)


@pytest.mark.parametrize(
    "package", sorted(path.parent.name for path in (ROOT / "wsss").glob("*/__init__.py"))
)
def test_every_package_has_its_place_in_architecture_and_api(package):
    assert f"  {package}/" in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    reference = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "api").glob("*.md"))
    assert re.search(rf"^::: wsss\.{package}\b", reference, re.MULTILINE)


def test_every_entry_of_the_api_reference_exists():
    for page in (ROOT / "docs" / "api").glob("*.md"):
        for name in re.findall(r"^::: ([\w.]+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            path = ROOT / name.replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__init__.py").exists(), name
