"""Files of runs and evaluations -> one self-contained HTML page."""

from dqo.report.page import write_report

__all__ = ["write_report"]
