"""What is imported when: starting fast is a matter of not loading things."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import vmimg as package
from run_vmimg import environment, vmimg
from vmimg.cli.app import VERBS

HEAVY = ("numpy", "rich", "isal", "deflate", "asyncio", "concurrent", "importlib.metadata")


def _imported(statement: str) -> set[str]:
    """The modules that ``statement`` loads, in a Python of its own."""
    program = (
        "import sys; before = set(sys.modules)\n"
        f"{statement}\n"
        "import json; print(json.dumps(sorted(set(sys.modules) - before)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, env=environment(), check=True
    )
    loaded: list[str] = json.loads(done.stderr.splitlines()[-1])
    return set(loaded)


def _packages(modules: set[str]) -> set[str]:
    return {heavy for heavy in HEAVY for m in modules if m == heavy or m.startswith(f"{heavy}.")}


def test_importing_the_package_loads_nothing_else() -> None:
    modules = _imported("import vmimg")
    assert {name for name in modules if name.startswith("vmimg.")} == set()
    assert _packages(modules) == set()


def test_importing_the_command_loads_no_verb_and_no_click() -> None:
    modules = _imported("import vmimg.cli")
    assert {name for name in modules if name.startswith("vmimg")} == {"vmimg", "vmimg.cli"}
    assert "click" not in modules


def test_the_version_is_printed_without_click() -> None:
    modules = _imported("from vmimg.cli import main; main(['--version'])")
    assert "click" not in modules
    assert _packages(modules) == set()


@pytest.mark.parametrize("arguments", [["--help"], ["formats"], ["convert", "-o", "help"]])
def test_help_needs_no_numpy(arguments: list[str]) -> None:
    modules = _imported(f"from vmimg.cli import main; main({arguments!r})")
    assert _packages(modules) == set()


@pytest.mark.peer("qemu-img", "qemu-io")
@pytest.mark.parametrize("name", ["base.qcow2", "sparse.raw", "compressed.qcow2"])
def test_info_loads_no_numpy_and_no_other_verb(images: Path, name: str) -> None:
    modules = _imported(f"from vmimg.cli import main; main(['info', {str(images / name)!r}])")
    assert _packages(modules) == set()
    assert {verb for verb in VERBS if f"vmimg.cli.{verb}" in modules} == {"info"}
    assert not any(module.startswith("vmimg.transfer") for module in modules)


def test_version_flags_agree_with_the_project_file() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    expected = f"vmimg {project['project']['version']}\n"
    assert vmimg("--version").out == vmimg("-V").out == expected


def test_every_public_name_is_there() -> None:
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="nothing_like_this"):
        package.nothing_like_this  # noqa: B018


def test_the_library_does_what_the_command_does(tmp_path: Path) -> None:
    image, raw = tmp_path / "a.qcow2", tmp_path / "a.raw"
    raw.write_bytes(bytes(8192) + b"vmimg" + bytes(65536 - 8197))
    done: list[tuple[int, int]] = []
    result = package.convert(raw, image, progress=lambda *step: done.append(step))
    assert (result.source_format, result.format, result.virtual_size) == ("raw", "qcow2", 65536)
    assert done[-1] == (65536, 65536)
    assert package.info(image).image.virtual_size == 65536
    assert package.compare(raw, image).identical
    assert package.check(image).exit_code == 0
    assert package.measure(raw, format="qcow2").required == image.stat().st_size
    with package.open(image) as disk:
        assert disk.read(8192, 5) == b"vmimg"
        assert any(extent.kind == package.Kind.DATA for extent in disk.map())
    with pytest.raises(package.OptionError, match="exists"):
        package.create(image, 1 << 20, format="qcow2")
