"""python -m pipelines.doctor: the same as crossview doctor, with the standard library alone."""

import sys

from pipelines.doctor.checks import main

sys.exit(main())
