"""Every command block in the docs runs, and the example does what the README says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands():
    return [line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("command", [each for each in commands() if not each.startswith("make ")])
def test_the_commands_of_the_readme_run(command):
    assert command.startswith(".venv/bin/atoll ")
    arguments = command.split()[1:]
    code = "from atoll.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("command", [each for each in commands() if each.startswith("make ")])
def test_the_make_targets_of_the_readme_exist(command):
    assert re.search(rf"^{command.split()[1]}:", MAKEFILE, re.MULTILINE)


def test_the_example_of_the_readme_runs():
    (example,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, check=True)
    assert done.stdout == "21.0\n"


@pytest.mark.parametrize("target", re.findall(r"\]\((docs/[^)]*)\)", README))
def test_the_links_of_the_readme_lead_somewhere(target):
    assert (ROOT / target).exists()
