"""README's quick start runs as it stands."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"


def blocks_between(start: str, end: str) -> list[tuple[str, str]]:
    text = README.read_text().split(start)[1].split(end)[0]
    return re.findall(r"```(python|console)\n(.*?)```", text, re.DOTALL)


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_console(block: str, folder: Path) -> str:
    lines = [line.removeprefix("$ sharkstore ") for line in block.strip().splitlines()]
    return "".join(
        run([sys.executable, "-m", "sharkstore", *line.split()], folder) for line in lines
    )


def test_quick_start_runs(tmp_path: Path):
    blocks = blocks_between("## Quick start", "## Converting")
    assert [kind for kind, _ in blocks] == ["python", "console", "python"]
    for kind, block in blocks:
        if kind == "python":
            run([sys.executable, "-c", block], tmp_path)
        else:
            run_console(block, tmp_path)


def test_from_training_to_stats_runs(tmp_path: Path):
    blocks = blocks_between("## From training to stats", "## Measured")
    kinds = [kind for kind, _ in blocks]
    assert kinds == ["python", "python", "console", "python", "console"]
    code = "".join(block for kind, block in blocks if kind == "python")
    assert run([sys.executable, "-W", "error", "-c", code], tmp_path) == "['ad']\n"
    told = [run_console(block, tmp_path) for kind, block in blocks if kind == "console"]
    assert "ad.weight" in told[0]
    assert "(pruned)" in told[1]


def test_every_option_that_readme_names_is_there(tmp_path: Path):
    commands = (["convert"], ["stats", "merge"], ["stats", "count"])
    helps = [
        run([sys.executable, "-m", "sharkstore", *one, "--help"], tmp_path) for one in commands
    ]
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README.read_text()))
    assert named - set(re.findall(r"--[a-z-]+", "".join(helps))) <= {"--fix", "--sanitize", "--arm"}
