"""Ansible, unchanged, works on the service: the modules for images of openstack.cloud."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from asking import Child
from clients import no_authentication

pytestmark = [pytest.mark.peer("ansible"), pytest.mark.slow]

_HOME = Path(__file__).resolve().parents[2] / ".venv-ansible/bin"
_BYTES = bytes(range(256)) * 40
_PLAYBOOK = """\
- hosts: localhost
  gather_facts: false
  vars:
    image: &image
      name: web
      container_format: bare
      disk_format: raw
      filename: {data}
      min_ram: 64
  tasks:
    - name: made
      openstack.cloud.image: &made
        <<: *image
        visibility: private
        tags: [a, b]
        properties: {{hw_disk_bus: scsi}}
    - name: made again
      openstack.cloud.image: *made
    - name: changed
      openstack.cloud.image:
        <<: *image
        min_disk: 2
        is_protected: true
        visibility: shared
        tags: [c]
        properties: {{hw_disk_bus: virtio}}
    - name: listed
      openstack.cloud.image_info:
        filters: {{hw_disk_bus: virtio}}
    - name: kept
      openstack.cloud.image: {{name: web, state: absent}}
      ignore_errors: true
    - name: deactivated
      openstack.cloud.image: {{name: web, state: inactive, is_protected: false}}
    - name: removed
      openstack.cloud.image: {{name: web, state: absent}}
    - name: removed again
      openstack.cloud.image: {{name: web, state: absent}}
"""


def _played(folder: Path, url: str) -> dict[str, Any]:
    """What each task of the playbook says, by its name."""
    mine = {key: value for key, value in os.environ.items() if key[:3] not in ("OS_", "PYT")}
    said = {
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json", "ANSIBLE_HOME": str(folder / "home"),
        "ANSIBLE_LOCALHOST_WARNING": "false", "HOME": str(folder), "LC_ALL": "C.UTF-8",
        "PATH": f"{_HOME}:{os.environ['PATH']}",
    }  # fmt: skip
    done = subprocess.run(
        [_HOME / "ansible-playbook", "-i", "localhost,", "-c", "local",
         "-e", f"ansible_python_interpreter={_HOME / 'python'}", "playbook.yml"],
        cwd=folder, env=mine | said | no_authentication(url), capture_output=True, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    tasks = json.loads(done.stdout)["plays"][0]["tasks"]
    return {task["task"]["name"]: task["hosts"]["localhost"] for task in tasks}


def test_a_playbook_makes_changes_and_removes_an_image(
    running_service: Child, tmp_path: Path
) -> None:
    data = tmp_path / "data.raw"
    data.write_bytes(_BYTES)
    (tmp_path / "playbook.yml").write_text(_PLAYBOOK.format(data=data))
    said = _played(tmp_path, running_service.url)
    made = said["made"]["image"]
    assert (made["status"], made["size"], made["min_ram"]) == ("active", len(_BYTES), 64)
    assert (made["visibility"], sorted(made["tags"])) == ("private", ["a", "b"])
    changed = said["changed"]["image"]
    assert (changed["id"], changed["min_disk"], changed["tags"]) == (made["id"], 2, ["c"])
    assert (changed["visibility"], changed["is_protected"]) == ("shared", True)
    assert changed["hw_disk_bus"] == "virtio"
    assert [image["id"] for image in said["listed"]["images"]] == [made["id"]]
    assert said["kept"]["failed"]
    assert said["deactivated"]["image"]["status"] == "deactivated"
    told = {name: task["changed"] for name, task in said.items() if "changed" in task}
    assert told == {
        "made": True, "made again": False, "changed": True, "listed": False, "kept": False,
        "deactivated": True, "removed": True, "removed again": False,
    }  # fmt: skip
