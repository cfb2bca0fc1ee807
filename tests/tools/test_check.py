"""tools/check beyond style and types."""

import os
import subprocess
from pathlib import Path

CHECK = Path(__file__).parents[2] / "tools" / "check"


def test_arm_kernels_need_a_compiler_and_an_emulator_and_say_so():
    done = subprocess.run(
        [CHECK, "--arm"],
        env={**os.environ, "ARM_CXX": "no-such-compiler"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "needs no-such-compiler; on Debian: apt install" in done.stderr
