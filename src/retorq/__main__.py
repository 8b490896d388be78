"""``python -m retorq`` is ``retorq``."""

from retorq.cli import main

main()
