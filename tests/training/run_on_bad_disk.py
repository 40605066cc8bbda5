"""Train the micro model while its disk is not what it was: DATA OUT full|read-only.

To be run in a user namespace of its own (unshare -Urm), where it may mount. OUT is made a small
disk. After step 5 it is full, or its checkpoints are read-only; after step 20 it is as before.
What the run leaves is copied to OUT-left.
"""

import logging
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

STEPS, SPOILT, MENDED = 40, 5, 20


def mount(*words):
    subprocess.run(["mount", *map(str, words)], check=True)


def fill(out):
    with open(out / "filler", "wb", buffering=0) as stream:
        for size in (65536, 1):
            try:
                while True:
                    stream.write(b"x" * size)
            except OSError:
                pass


def main(data, out, how):
    from micro import micro_config

    from training import checkpoint
    from training.trainer import pretrain

    folder = out / checkpoint.FOLDER
    asked = 0

    def between_steps():
        """Disturb; never ask to stop."""
        nonlocal asked
        asked += 1
        if asked == SPOILT + 1:
            while not (folder / "step_00000004.pt").exists():
                time.sleep(0.01)  # it is being written
            if how == "full":
                fill(out)
            else:
                mount("--bind", folder, folder)
                mount("-o", "remount,bind,ro", folder)
        if asked == MENDED + 1:
            if how == "full":
                (out / "filler").unlink()
            else:
                subprocess.run(["umount", "--lazy", str(folder)], check=True)
        return False

    out.mkdir()
    mount("-t", "tmpfs", "-o", "size=8m", "crossview", out)
    config = micro_config(
        data,
        optim={"max_steps": STEPS},
        validation={"every_steps": 0},
        checkpoint_every_steps=4,
    )
    pretrain(config, out, between_steps)
    (out / "filler").unlink(missing_ok=True)
    shutil.copytree(out, f"{out}-left")  # the mount ends with this process


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
