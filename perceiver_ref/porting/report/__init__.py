"""A report that a person can read: a verdict, how the error grows from point to point, and where it begins.

contents   what it shows
page       the HTML page of it
"""

from .contents import Excerpt, Report, ReportPoint, excerpt, value_text
from .page import report, write_report

__all__ = ["Excerpt", "Report", "ReportPoint", "excerpt", "report", "value_text", "write_report"]
