"""The report's files, each whole or not at all."""

from pathlib import Path

from emo_core.evaluation.plot import plot_clips, plot_speeds
from emo_core.evaluation.report import Report
from emo_core.evaluation.table import markdown
from emo_data.errors import UserError
from emo_data.whole import whole_file


def check_out(out: Path) -> None:
    """UserError for a report that could not be written: before the work, not after it."""
    if out.suffix.lower() != ".json" or out.is_dir() or not out.parent.is_dir():
        raise UserError(f"--out {out}: must end in .json and lie in a folder that exists")


def write_report(report: Report, out: Path, title: str) -> list[Path]:
    """REPORT.json, and beside it REPORT.md, REPORT.speeds.png and REPORT.clips.png."""
    page, speeds, clips = (out.with_suffix(ending) for ending in (".md", ".speeds.png", ".clips.png"))
    for path, text in ((out, report.model_dump_json(indent=1)), (page, markdown(report, title))):
        with whole_file(path) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    files = [out, page]
    if "motion" in report.counted:
        plot_speeds(report, speeds)
        files.append(speeds)
    plot_clips(report, clips)
    return [*files, clips]
