#!/usr/bin/env python3
"""A second implementation of the levee envelope, written from docs/envelope.md alone.

This file only starts the package of the same name that lies beside it: `levee_envelope.py --help` lists its commands.
Python 3.9 or later, standard library only; signatures and certificates are left to the `openssl` command.
"""
import sys

sys.dont_write_bytecode = True  # a check leaves nothing behind in the checkout

from levee_envelope.cli import main  # noqa: E402  (the package directory comes before this file on the path)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
