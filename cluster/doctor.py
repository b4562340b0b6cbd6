"""``stoa doctor`` in every process of a run: ``STOA_ENTRY=cluster/doctor.py cluster/node.sh``."""

import sys

from stoa.cli import main

if __name__ == "__main__":
    sys.exit(main(["doctor", *sys.argv[1:]]))
