"""Writes `report.html` of a finished pseudo-label job again: `python -m wsss.report LABELS`."""

from wsss.common import cli, io
from wsss.common.errors import UserError, program
from wsss.pipeline.report import write_report


@program
def main(argv=None):
    """Writes `report.html` anew from the files of a finished run."""
    parser = cli.Parser(prog="python -m wsss.report", description=main.__doc__)
    parser.add_argument("labels", help="output folder of pipelines/pseudo_labels.py")
    folder = parser.parse_args(argv).labels
    summary_path, metrics_path = io.join(folder, "summary.json"), io.join(folder, "metrics.json")
    if not io.exists(summary_path):
        raise UserError(f"{folder} holds no finished run: there is no summary.json.")
    metrics = io.read_json(metrics_path) if io.exists(metrics_path) else None
    print(write_report(folder, io.read_json(summary_path), metrics))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
