"""`python -m flows.cli` is the command `pricewright`."""

import sys

from flows.cli.main import main

sys.exit(main())
