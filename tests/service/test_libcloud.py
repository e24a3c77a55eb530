"""Apache Libcloud, unchanged, works on the service: what its compute driver does with images."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

import openstack_databases
from asking import Client
from driving import Driver, driver
from glance_peer import Openstack
from openstack_env import HOME, PASSWORD
from openstack_regions import region

pytestmark = pytest.mark.peer("libcloud", "keystone", "glance")

_PAIR = openstack_databases.SETS - 5
_DRIVER = Path(__file__).with_name("libcloud_driver.py")


def _driven(
    folder: Path, keystone: str, here: str, user: str, project: str
) -> AbstractContextManager[Driver]:
    command = [HOME / "bin/python", _DRIVER, keystone, here, PASSWORD, project, user]
    return driver(command, folder)


def test_images_are_listed_changed_and_shared(openstack: Openstack, tmp_path: Path) -> None:
    one, two = f"one-{_PAIR}", f"two-{_PAIR}"
    token, other = openstack.token("alice", one), openstack.projects[two]
    with (
        openstack.serving(tmp_path) as ours,
        region(openstack, image=ours.url) as here,
        _driven(tmp_path, openstack.keystone, here, "alice", one) as alice,
        _driven(tmp_path, openstack.keystone, here, "bob", two) as bob,
        httpx.Client(base_url=ours.url, headers={"x-auth-token": token}) as http,
    ):
        glance = Client(http)
        made = [glance.active(name=f"image {n}", visibility="private")["id"] for n in range(26)]
        # More than fit on a page.
        assert {image["id"] for image in alice.value(call="list_images", args=[])} == set(made)
        image = alice.value(call="get_image", args=made[:1])
        assert (image["name"], image["extra"]["status"]) == ("image 0", "active")
        changes = [{"op": "replace", "path": "/visibility", "value": "shared"}]
        changed = alice.value(call="ex_update_image", args=[made[0], changes])
        assert changed["extra"]["visibility"] == "shared"
        assert bob.failure(call="get_image", args=made[:1]) == "BaseHTTPError"
        member = [made[0], other]
        assert alice.value(call="ex_create_image_member", args=member)["id"] == other
        assert alice.failure(call="ex_create_image_member", args=member) == "BaseHTTPError"
        assert bob.value(call="ex_accept_image_member", args=member)["state"] == "accepted"
        assert alice.value(call="ex_get_image_member", args=member)["state"] == "accepted"
        members = alice.value(call="ex_list_image_members", args=made[:1])
        assert [found["id"] for found in members] == [other]
        assert [i["id"] for i in bob.value(call="list_images", args=[])] == made[:1]
