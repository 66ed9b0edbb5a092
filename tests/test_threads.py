from __future__ import annotations

import os
import subprocess
import sys

import pytest

STARTED = """
import sys
from typer.testing import CliRunner
from imlctl.cli import app
assert "torch" not in sys.modules
assert CliRunner().invoke(app, ["report", "--help"]).exit_code == 0
import torch
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks GNU's OpenMP, with which torch comes")
@pytest.mark.parametrize(("given", "wanted"), [(None, "PASSIVE"), ("active", "ACTIVE")])
def test_threads_of_the_command_line_sleep_unless_told_otherwise(
    given: str | None, wanted: str
) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    more = {"OMP_DISPLAY_ENV": "true"} | ({} if given is None else {"OMP_WAIT_POLICY": given})
    done = subprocess.run(
        [sys.executable, "-c", STARTED],
        env=clean | more,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"OMP_WAIT_POLICY = '{wanted}'" in done.stderr
