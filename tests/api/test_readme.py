"""README's quick start runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"


def test_quick_start_runs(tmp_path: Path):
    text = README.read_text().split("## Quick start")[1].split("## Converting")[0]
    blocks = re.findall(r"```(python|console)\n(.*?)```", text, re.DOTALL)
    assert [kind for kind, _ in blocks] == ["python", "console", "python"]
    for kind, block in blocks:
        if kind == "python":
            commands = [[sys.executable, "-c", block]]
        else:
            lines = [line.removeprefix("$ sharkstore ") for line in block.strip().splitlines()]
            commands = [[sys.executable, "-m", "sharkstore", *line.split()] for line in lines]
        for command in commands:
            done = subprocess.run(
                command, cwd=tmp_path, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr


def test_every_option_of_convert_is_one_that_readme_could_name():
    help_text = subprocess.run(
        [sys.executable, "-m", "sharkstore", "convert", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README.read_text()))
    assert named - set(re.findall(r"--[a-z-]+", help_text)) <= {"--fix", "--sanitize", "--arm"}
