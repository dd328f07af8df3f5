"""Every golden file is read by a test, and the book-keeping that finds out works."""

from pathlib import Path

import numpy as np
import pytest

from tests.golden import DESCRIPTIONS, GOLDEN, SUBSET, assert_close, claims, golden_files, unclaimed_files

TESTS = [path for path in Path(__file__).parent.rglob("test_*.py") if path != Path(__file__)]


@pytest.mark.golden
@pytest.mark.parametrize("folder", sorted({GOLDEN, SUBSET}), ids=lambda path: path.parent.name)
def test_every_golden_file_is_claimed_by_a_test(folder):
    files = [path for path in folder.iterdir() if path.is_file() and path.name not in DESCRIPTIONS]
    unread = unclaimed_files([path.read_text(encoding="utf-8") for path in TESTS], files)
    assert not unread, f"no test reads {sorted(path.name for path in unread)}"


@pytest.mark.golden
def test_the_subset_has_a_file_for_every_claim():
    for kind, name in set().union(*(claims(path.read_text(encoding="utf-8")) for path in TESTS)):
        found = golden_files(name, SUBSET) if kind == "golden_cases" else (SUBSET / name).is_file()
        assert found, name


def test_numbers_that_the_subset_leaves_out_are_not_compared_and_the_others_are():
    expected = np.array([1.0, np.nan, 3.0])
    assert_close(np.array([1.0, 7.0, 3.0]), expected)
    for wrong, recordings in (([1.0, 2.0, 4.0], expected), ([1.0], [np.nan])):
        with pytest.raises(AssertionError):
            assert_close(np.array(wrong), np.array(recordings))


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
