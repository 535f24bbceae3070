"""`python -m tenner` is `tenner`."""

import sys

from tenner.cli.main import main

sys.exit(main())
