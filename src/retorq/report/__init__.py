"""Pages, pictures and videos made from run folders. Nothing here imports torch."""

from retorq.report.curve import write_curve
from retorq.report.page import write_report
from retorq.report.video import write_video

__all__ = ["write_curve", "write_report", "write_video"]
