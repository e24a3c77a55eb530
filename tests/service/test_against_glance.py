"""The same requests to a real Glance and to ours: the answers are compared field by field.

`scenarios_*` says what is asked, `compare` what counts, `accepted_differences` what is meant.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from accepted_differences import unaccepted
from asking import Child
from compare import Run, differences
from glance_peer import Openstack
from scenarios import ALONE, SCENARIOS, VISIBLE

pytestmark = pytest.mark.peer("keystone", "glance")

_PROJECT_OF = {"alice": "one", "rita": "one", "robot": "one", "bob": "two"}


def _run(openstack: Openstack, name: str, url: str) -> Run:
    """The scenario, asked of one of the two as far as it gets."""
    number = ALONE.index(name) + 1 if name in ALONE else 0
    projects = {side: f"{side}-{number}" for side in ("one", "two")}

    def token(who: str) -> str:
        project = "admin" if who == "admin" else projects[_PROJECT_OF[who]]
        return openstack.token(who, project)

    run = Run(
        url,
        token,
        {side: openstack.projects[project] for side, project in projects.items()}
        | {"admin": openstack.projects["admin"]},
        files=openstack.files,
        files_folder=openstack.files_folder,
        users=openstack.users,
        name=name,
        elsewhere=openstack.glance,
    )
    try:
        (SCENARIOS | VISIBLE)[name](run)
    except Exception as error:
        run.failure = f"{type(error).__name__}: {error}"
    finally:
        run.close()
    return run


@pytest.fixture(scope="session")
def ours(openstack: Openstack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """``vmimg serve``, configured as the Glance is."""
    with openstack.serving(tmp_path_factory.mktemp("ours")) as child:
        yield child


@pytest.mark.parametrize("name", SCENARIOS)
def test_ours_answers_as_glance_does(name: str, openstack: Openstack, ours: Child) -> None:
    said = _said(openstack, name, openstack.glance, ours.url)
    assert not said, f"{len(said)} differences\n" + "\n".join(said)


def test_ours_answers_as_a_glance_that_shows_locations_does(
    openstack: Openstack, tmp_path: Path
) -> None:
    """All of them in one test: starting the two takes longer than asking them."""
    web = '[stores.web]\nurl = "http://"\n'
    with (
        openstack.visible(tmp_path) as glance,
        openstack.serving(tmp_path, web, "show_locations = true\n") as mine,
    ):
        said = [
            f"{name}: {each}"
            for name in VISIBLE
            for each in _said(openstack, name, glance, mine.url)
        ]
    assert not said, f"{len(said)} differences\n" + "\n".join(said)


def _said(openstack: Openstack, name: str, theirs: str, url: str) -> list[str]:
    """What differs, and should not."""
    glance = _run(openstack, name, theirs)
    assert glance.failure is None, f"{name} fails with Glance itself: {glance.failure}"
    mine = _run(openstack, name, url)
    left, unused = unaccepted(name, differences(glance, mine))
    said = [str(difference) for difference in left]
    said += [f"not needed any more: {row}" for row in unused]
    if mine.failure:
        said.append(f"ours went no further: {mine.failure}")
    return said
