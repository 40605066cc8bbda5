"""Makes errands importable, by this process and by workers, which have its path."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
