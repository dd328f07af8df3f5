"""Every golden file is read by a test, and the book-keeping that finds out works."""

from pathlib import Path

import pytest

from tests.golden import DESCRIPTIONS, GOLDEN, claims, unclaimed_files


@pytest.mark.golden
def test_every_golden_file_is_claimed_by_a_test():
    if not GOLDEN.is_dir():
        pytest.skip(f"no golden folder at {GOLDEN}; set WSSS_GOLDEN")
    files = [path for path in GOLDEN.iterdir() if path.is_file() and path.name not in DESCRIPTIONS]
    tests = [path for path in Path(__file__).parent.rglob("test_*.py") if path != Path(__file__)]
    unread = unclaimed_files([path.read_text(encoding="utf-8") for path in tests], files)
    assert not unread, f"no test reads {sorted(path.name for path in unread)}"


def test_claims_are_found_in_the_source_of_a_test():
    source = '@golden_cases("b_pcm", "a_x")\ndef test_it(case):\n    golden_file("names.txt")\n'
    assert claims(source) == {
        ("golden_cases", "b_pcm"),
        ("golden_cases", "a_x"),
        ("golden_file", "names.txt"),
    }


def test_a_claim_that_cannot_be_read_is_an_error():
    with pytest.raises(ValueError, match="Line 1"):
        claims("golden_cases(PREFIX)")


def test_a_prefix_claims_all_its_numbers_and_no_other_name():
    files = [
        Path(name) for name in ("e_crf_0.npz", "e_crf_17.npz", "e_crf.npz", "e_crf_small_0.npz", "e.txt")
    ]
    unread = unclaimed_files(['golden_cases("e_crf")'], files)
    assert [path.name for path in unread] == ["e_crf_small_0.npz", "e.txt"]
