"""Set before numpy is loaded: its linear algebra's threads spin against each other on a busy machine, 30 times slower."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
