"""Runs Apache Libcloud's OpenStack driver in an interpreter of .venv-openstack.

    libcloud_driver.py KEYSTONE REGION PASSWORD PROJECT USER

Reads a line of JSON for each call from standard input, {"call": "list_images", "args": [...]}, and
writes {"value": ...} or {"error": ..., "kind": ...}. Nothing of vmimg is imported.
"""

from __future__ import annotations

import json
import sys
import traceback
from typing import Any

from libcloud.compute.providers import get_driver
from libcloud.compute.types import Provider


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if hasattr(value, "extra"):
        kept = ("id", "name", "image_id", "state", "extra")
        return {key: getattr(value, key) for key in kept if hasattr(value, key)}
    return value


def main(keystone: str, region: str, password: str, project: str, user: str) -> None:
    """Answer until there is no more to read."""
    driver = get_driver(Provider.OPENSTACK)(
        user, password, api_version="2.0", ex_force_auth_url=keystone,
        ex_force_auth_version="3.x_password", ex_tenant_name=project, ex_domain_name="Default",
        ex_force_service_region=region,
    )  # fmt: skip
    for line in sys.stdin:
        said = json.loads(line)
        try:
            answer = {"value": _plain(getattr(driver, said["call"])(*said["args"]))}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": str(error), "kind": type(error).__name__}
        print(json.dumps(answer, default=str), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
