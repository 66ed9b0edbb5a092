"""How this process's threads wait for each other."""

from __future__ import annotations

import os

_POLICY = "OMP_WAIT_POLICY"


def wait_asleep() -> None:
    """Let threads that have nothing to do sleep instead of spinning, unless the environment says.

    OpenMP's threads spin between two loops, of which a network has thousands. Where other programs
    want the cores as well, they spin on the very time that their neighbours need to finish: a
    picture of 2048x2048 took fourteen times as long. To be called before torch is imported, by the
    command line; a library must not decide this.
    """
    os.environ.setdefault(_POLICY, "passive")
