"""The entry point of the image: from its first line on a signal ends the program with a message.

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
