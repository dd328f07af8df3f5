"""American spelling and the field's terms, not private ones, in names, docstrings, messages and pages."""

import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*ROOT.glob("wsss/**/*.py"), *ROOT.glob("benchmarks/*.py"), *ROOT.glob("pipelines/*.py")])
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")])
BRITISH = re.compile(
    r"\w*(?:colour|neighbour|behaviour|favour|centre\b|centred|labelled|labelling|cancelled|modelling"
    r"|(?:normal|serial|recogn|optim|initial|organ|general|special|summar|regular|visual)is(?:e|ed|es|ing|ation)\b"
    r"|\bgrey)\w*",
    re.IGNORECASE,
)
PRIVATE = re.compile(r"\b(?:things|told|what came of it|looked at|undecided|lean|quiet)\b", re.IGNORECASE)
# Published spellings that stay: a name in files of 0.1.0, an older flag, and what others spell so.
ALLOWED = {
    *("labelled", "unlabelled", "wrongly_labelled"),  # a key of summary.json; reasons in errors.jsonl
    "was_cancelled",  # a key of Label Studio's tasks
    "undecided",  # `--undecided` of `wsss.evaluate`
}


def words(text):
    """The words in a text that should be others."""
    return [word for pattern in (BRITISH, PRIVATE) for word in pattern.findall(text) if word not in ALLOWED]


def prose(source):
    """Names, comments and texts of a module: all of it but numbers and operators."""
    kept = (tokenize.NAME, tokenize.COMMENT, tokenize.STRING)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return " ".join(token.string for token in tokens if token.type in kept)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_use_the_words_of_the_field(path):
    assert words(prose(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_use_the_words_of_the_field(path):
    assert words(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source", ["colours = 1", "def f():\n  'What was told.'", "x = 1  # normalised", 's = "neighbouring"']
)
def test_another_word_is_found(source):
    assert len(words(prose(source))) == 1
