"""American spelling and the field's terms, not private ones, in names, docstrings, messages and pages."""

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("wsss", "benchmarks", "pipelines", "tests")
SOURCES = sorted(
    path for folder in FOLDERS for path in ROOT.glob(f"{folder}/**/*.py") if path.name != Path(__file__).name
)
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")])
BRITISH = re.compile(
    r"colour|neighbour|behaviour|favour|centre\b|centred|labelled|labelling|cancelled|modelling"
    r"|(?:normal|serial|recogn|optim|initial|organ|general|special|summar|regular|visual)is(?:e|ed|es|ing|ation)\b"
    r"|\bgrey",
    re.IGNORECASE,
)
# Between what are no letters, so that the parts of `snake_case` names are words too.
PRIVATE = re.compile(
    r"(?<![a-z])(?:things?|told|tells|undecided|lean|quiet|household)(?![a-z])", re.IGNORECASE
)
PHRASES = re.compile(
    r"what came of it|looked at|rows in turn|figures (?:are|of|were)|rows and figures", re.IGNORECASE
)
# As names: a fraction, and the class ids of scores.
PRIVATE_NAMES = re.compile(r"\w*(?<![a-z])share(?![a-z])\w*|scores keys")
# Published spellings that stay: a name in files of 0.1.0, an older flag, and what others spell so.
ALLOWED = {
    *("labelled", "unlabelled", "wrongly_labelled"),  # a key of summary.json; reasons in errors.jsonl
    "was_cancelled",  # a key of Label Studio's tasks
    "JOB_STATE_CANCELLED",  # of Dataflow's API
    *("undecided", "undecided_counts_as"),  # `--undecided` of `wsss.evaluate`, and what it wrote
    "drawn_things",  # names the shards of the built-in collection
}


def words(text):
    """The words and phrases in a text that should be others."""
    different = set(re.findall(r"\w+", text)) - ALLOWED
    found = sorted(word for word in different if BRITISH.search(word) or PRIVATE.search(word))
    return found + PHRASES.findall(text)


def words_of_module(source):
    """The words in a module that should be others; names of recorded arrays, `case["…"]`, are as they are."""
    names = (
        token.string
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.NAME
    )
    private = PRIVATE_NAMES.findall(" ".join(names)) if re.search("share|keys", source) else []
    found = words(re.sub(r'\bcase\["\w+"\]', "case", source))
    return found + [name for name in private if not name.startswith("test_")]  # a sentence, with a verb


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_use_the_words_of_the_field(path):
    assert words_of_module(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_use_the_words_of_the_field(path):
    assert words(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        *("colours = 1", "def f():\n  'What was told.'", "x = 1  # normalised", 's = "neighbouring"'),
        *("quiet_errors = 1", "def _add_thing(): pass", "share = 0.5", "scores, keys = read()"),
    ],
)
def test_another_word_is_found(source):
    assert len(words_of_module(source)) == 1


def test_the_verb_is_no_private_name():
    assert words_of_module("x = 1  # replicas share a batch") == []
