"""What each command of the command line does; the arguments are dataclasses that ``arguments`` and tyro read."""

from retorq.commands.cluster import cluster
from retorq.commands.evaluation import evaluate
from retorq.commands.looking import bench, doctor, report, show, study
from retorq.commands.training import resume, train

__all__ = ["bench", "cluster", "doctor", "evaluate", "report", "resume", "show", "study", "train"]
