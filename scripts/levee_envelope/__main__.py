"""`python3 -m levee_envelope` does what `levee_envelope.py` does."""
import sys

from .cli import main

sys.exit(main(sys.argv[1:]))
