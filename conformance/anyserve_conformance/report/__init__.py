"""From one or several `report.jsonl` to what people and CI machines read: an HTML page, a matrix, JUnit XML.

Nothing here runs a case or imports pytest.
"""

from anyserve_conformance.report import junit, matrix
from anyserve_conformance.report.model import Case, Event, Outcome, ReportError, Run, Subject
from anyserve_conformance.report.page import write_html
from anyserve_conformance.report.reading import read_run

__all__ = ["Case", "Event", "Outcome", "ReportError", "Run", "Subject", "junit", "matrix", "read_run", "write_html"]
