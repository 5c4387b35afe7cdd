"""`python -m shardline COMMAND` is `shardline COMMAND`."""

import sys

from shardline.cli.main import main

sys.exit(main())
