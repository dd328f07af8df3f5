"""`python -m wsss.demo`, small."""

import re
from pathlib import Path

import pytest

from wsss.demo import main


@pytest.mark.slow
def test_the_demo_goes_from_tags_to_a_report_and_shows_its_commands(tmp_path, capsys):
    output = tmp_path / "demo"
    assert main(["--output", str(output), "--num_images", "40", "--epochs", "1"]) == 0
    written = capsys.readouterr().out
    commands = [line for line in written.splitlines() if line.startswith("$ python")]
    assert [re.findall(r"wsss\.\w+|pipelines/\w+", line)[0] for line in commands] == [
        "wsss.data",
        *["wsss.train", "pipelines/pseudo_labels"] * 2,
    ]
    assert re.search(r"SEAM +\d+\.\d %", written)
    assert "data:image/png" in Path(output, "report.html").read_text(encoding="utf-8")
    assert len(list(Path(output, "seam_masks", "masks").glob("*.png"))) == 32

    assert main(["--output", str(output), "--num_images", "40", "--epochs", "1"]) == 0
    assert "finished already" in capsys.readouterr().out
    assert main(["--output", str(output), "--num_images", "41"]) == 2
    assert "holds 40 scenes, not the 41 asked for" in capsys.readouterr().err
    assert main(["--output", str(output), "--num_images", "40", "--epochs", "2"]) == 2
    assert "pass --overwrite" in capsys.readouterr().err
    assert main(["--output", str(output), "--num_images", "40", "--epochs", "2", "--overwrite"]) == 0


def test_a_mistake_ends_the_demo_in_one_line(tmp_path, capsys):
    assert main(["--output", str(tmp_path), "--num_images", "1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "at least 40: a batch and a split. Received: 1" in line
