"""Set before numpy is loaded: on a busy machine the threads of its linear algebra spin against each other."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
