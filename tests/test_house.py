"""What the repository as a whole must be: free of traces of where it was written, and true to itself."""

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import typer

import medl_scale
from medl_scale.cli import app

ROOT = Path(__file__).parents[1]
# Put together here, so that this file is none of those that hold them.
TRACES = [
    *(f"/{folder}/" for folder in ("work", "root", "home")),
    *(f"{name}.{end}" for name, end in (("pypi", "org"), ("pythonhosted", "org"))),
    *(f"--{option}-url" for option in ("index", "extra-index")),
]


@pytest.fixture(scope="module")
def texts():
    """Every text file that is tracked, or would be, by its path."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("this is no checkout of the repository, or git is not installed")
    found = {}
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.is_file():
            try:
                found[name] = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
    return found


def commands_in(text):
    """Every call of the command line in a text, as words."""
    for line in text.replace("\\\n", " ").splitlines():
        for call in re.findall(r"(?:^|[\s`/(])medl-scale +([a-z]+ [^`#|]*|[a-z]+)", line):
            yield shlex.split(call, posix=False)


def test_no_file_names_the_machine_or_the_registry_it_came_from(texts):
    held = {(name, trace) for name, text in texts.items() for trace in TRACES if trace in text}
    assert held == set()


@pytest.mark.parametrize("name", ["README.md", "Makefile"])
def test_every_command_that_is_shown_exists_with_its_options(name):
    known = typer.main.get_command(app).commands
    calls = list(commands_in((ROOT / name).read_text()))
    assert len(calls) >= 4
    for command, *words in calls:
        assert command in known, f"medl-scale {command}"
        options = {flag for param in known[command].params for flag in param.opts}
        for word in words:
            flag = word.split("=")[0]
            assert not flag.startswith("-") or flag in options | {"--help"}, f"{command} {flag}"


def test_every_chore_that_is_shown_is_a_recipe():
    recipes = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    shown = re.findall(r"^make ([a-z-]+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert {"demo", "test"} <= set(shown) <= set(recipes)


def test_versions_agree_and_every_public_name_is_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert medl_scale.__version__ == project["version"]
    for name in medl_scale.__all__:
        assert getattr(medl_scale, name) is not None
    with pytest.raises(AttributeError, match="module 'medl_scale' has no attribute 'fti'"):
        medl_scale.fti  # noqa: B018
