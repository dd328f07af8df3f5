"""Writes `report.html` of a finished pseudo-label job again: `python -m wsss.report LABELS`.

Of a job on a cluster whose program did not wait for it (`--detach`, a template), it writes all results.
"""

from wsss.common import cli, io
from wsss.common.errors import UserError, program
from wsss.common.output_folder import read_marker


@program
def main(argv: list[str] | None = None) -> int:
    """Writes `report.html` again from the files of a finished job, or all results of one that was left."""
    from wsss.pipeline.job.unfinished import gather_results
    from wsss.pipeline.output import Layout
    from wsss.pipeline.report.page import write_report
    from wsss.pipeline.report.results import read_summary

    parser = cli.Parser(prog="python -m wsss.report", description=main.__doc__)
    parser.add_argument("labels", help="output folder of pipelines/pseudo_labels.py")
    folder = parser.parse_args(argv).labels
    marker = read_marker(folder)
    if marker is None or marker.kind != "pseudo_labels":
        raise UserError(
            f"{folder} holds no pseudo labels that wsss wrote. Name the `--output` of a finished "
            "`wsss pseudo_labels` or `wsss predict`."
        )
    kept = frozenset(io.join(folder, name) for name in marker.kept)
    gathered = gather_results(Layout(folder, kept))
    if gathered is not None:
        print(*gathered.lines(), sep="\n")
    summary, metrics = read_summary(folder)
    io.remove_unfinished(folder, "report.html")
    print(write_report(folder, summary, metrics))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
