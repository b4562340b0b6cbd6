"""Lets ``python -m stoa.cli`` run the ``stoa`` command."""

import os
import sys

from stoa.cli import main

if __name__ == "__main__":
    code = main()
    if code and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # Other ranks may wait in a collective; leave without the interpreter's clean-up waiting for them.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
