"""The report of a run, written when it has finished: report.md, report.json and the pictures beside them."""

from ffdr.train.report.records import is_record
from ffdr.train.report.write import write_report

__all__ = ["is_record", "write_report"]
