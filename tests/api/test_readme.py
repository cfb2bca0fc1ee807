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


def test_from_training_to_what_it_cost_runs(tmp_path: Path):
    """In one Python process, since the later blocks use the model of the first."""
    blocks = blocks_between("## From training to stats", "## Measured")
    kinds = " ".join(kind for kind, _ in blocks)
    assert kinds == "python python console console python console console python python python"
    (tmp_path / "told").mkdir()
    lines = ["import subprocess, sys"]
    for number, (kind, block) in enumerate(blocks):
        lines.append(block if kind == "python" else as_code(block, f"told/{number}"))
    out = run([sys.executable, "-W", "error", "-c", "\n".join(lines)], tmp_path)
    gone, *told = out.splitlines()
    assert gone == "['ad']"
    assert [line.split()[0] for line in told[2:4]] == ["AUC", "log"]
    assert told[4].startswith("4 modules look rows up")
    assert len(told) == 10
    assert told[-1].startswith("{'rss': ")
    stats, budgeted, converted, compared = (
        path.read_text() for path in sorted((tmp_path / "told").iterdir())
    )
    assert "ad.weight" in stats
    assert "(pruned)" in stats
    assert "predicted loss" in budgeted
    assert "(pruned)" in converted
    assert "constant, pruned in B" in compared
    assert "RMSE seen" in compared


def as_code(block: str, path: str) -> str:
    """Python that runs a console block and keeps what it prints."""
    commands = [line.removeprefix("$ sharkstore ").split() for line in block.strip().splitlines()]
    call = "subprocess.run([sys.executable, '-m', 'sharkstore', *one], check=True, stdout=file)"
    return f"with open({path!r}, 'w') as file:\n    for one in {commands!r}:\n        {call}"


def test_every_option_that_readme_names_is_there(tmp_path: Path):
    commands = (["convert"], ["stats", "merge"], ["stats", "count"], ["diff"])
    helps = [
        run([sys.executable, "-m", "sharkstore", *one, "--help"], tmp_path) for one in commands
    ]
    ours = {"--fix", "--sanitize", "--threads", "--soak", "--arm"}  # of tools/check
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README.read_text()))
    assert named - set(re.findall(r"--[a-z-]+", "".join(helps))) <= ours
