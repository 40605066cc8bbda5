"""Train the micro model in a process of its own: DATA OUT [OVERRIDES as JSON]."""

import json
import logging
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

if __name__ == "__main__":
    from micro import micro_config

    from training.trainer import pretrain

    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(1)
    data, out, *overrides = sys.argv[1:]
    config = micro_config(Path(data), **json.loads(overrides[0] if overrides else "{}"))
    pretrain(config, Path(out))
