"""``python -m sicnn_app`` is ``sicnn-app``."""

import sys

from sicnn_app.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
