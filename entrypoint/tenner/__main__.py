"""`python -m tenner` is `tenner`."""

import sys

from tenner.cli import main

sys.exit(main())
