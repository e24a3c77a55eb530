"""The habits of the project, as far as a program can check them."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import peers
from vmimg.formats import FORMATS, Format
from vmimg.formats.driver import Driver

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SOURCES = sorted(
    path
    for folder in ("src", "scripts", "tests")
    for path in (ROOT / folder).rglob("*.py")
    if path.stat().st_size
)


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "table", ["readme_formats", "readme_speed", "findings_table", "bundles_table", "service_speed"]
)
def test_the_generated_tables_are_fresh(table: str) -> None:
    done = script(f"scripts/{table}.py", "--check")
    assert done.returncode == 0, done.stderr


def test_the_readme_shows_real_output_everywhere() -> None:
    assert "FILL" not in README


def test_the_readme_types_only_commands_that_exist() -> None:
    verbs = set(re.findall(r"^\$ vmimg (\w+)", README, re.MULTILINE))
    assert verbs, "the README shows no command at all"
    command = Path(sys.executable).parent / "vmimg"
    for verb in sorted(verbs):
        done = subprocess.run([command, verb, "--help"], capture_output=True, check=False)
        assert done.returncode == 0, f"the README says `vmimg {verb}`"


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md")))
def test_the_pages_point_only_to_files_that_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} points to {target}"


def test_make_installs_every_peer_program_that_tests_may_ask_for() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lists = re.findall(r"^(?:SLOW_)?PEERS := ((?:.*\\\n)*.*)$", makefile, re.MULTILINE)
    assert len(lists) == 2
    installed = {name for words in lists for name in re.split(r"[\s\\|]+", words)}
    named = {peer.package for peer in peers.PEERS.values() if not peer.module}
    # "azurite (npm)": another registry's, which has a step of its own.
    elsewhere = {package for package in named if "(" in package}
    assert named - elsewhere <= installed
    groups = makefile + (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for package in elsewhere:
        assert re.search(rf"\b{re.escape(package.split()[0])}\b", groups), package


def test_the_version_is_said_once() -> None:
    import vmimg

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert vmimg.__version__ == project["version"] == importlib.metadata.version("vmimg")
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_opens_with_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("format", FORMATS.values(), ids=lambda format: format.name)
def test_a_format_implements_what_it_claims_and_claims_what_it_implements(format: Format) -> None:
    driver = format.driver()
    claims = format.capabilities
    assert claims.read, "a format that cannot be read has no place in the registry yet"
    assert claims.convert == (type(driver).writer is not Driver.writer)
    assert claims.check == (type(driver).check is not Driver.check)


@pytest.mark.parametrize("format", FORMATS.values(), ids=lambda format: format.name)
def test_the_default_of_an_option_is_one_of_its_choices(format: Format) -> None:
    for option in format.options:
        if option.choices and option.default is not None:
            assert option.default in option.choices, option.name


def test_no_name_or_extension_means_two_formats() -> None:
    names = [name for format in FORMATS.values() for name in (format.name, *format.aliases)]
    extensions = [extension for format in FORMATS.values() for extension in format.extensions]
    assert len(names) == len(set(names))
    assert len(extensions) == len(set(extensions))
