"""The first thing that runs of tenner in the image: a signal is answered from here on.

python -m tenner.cli.start COMMAND …
"""

import sys

from tenner.core.early_stop import report_sigterm


def start() -> int:
    """Run the command as `tenner.cli.container` does. Returns its exit code."""
    report_sigterm()
    from tenner.cli.container import run_in_container  # takes a while

    return run_in_container(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(start())
