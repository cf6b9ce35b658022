"""`python -m dqo`, the form that `accelerate launch -m dqo` starts."""

import sys

from dqo.cli.main import main

sys.exit(main())
