"""KubeVirt's VirtualMachine: YAML that a plain loader reads, with the API's fields."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import yaml
from hypothesis import given, settings

from machine_samples import RICH, SMALL, machines
from vmimg.machines.dialects import kubevirt
from vmimg.machines.model import Drive, Machine, Network

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def _said(machine: Machine) -> dict[str, Any]:
    found = yaml.safe_load(kubevirt.write(machine).data)
    assert isinstance(found, dict)
    assert (found["apiVersion"], found["kind"]) == ("kubevirt.io/v1", "VirtualMachine")
    return found


@settings(derandomize=True, deadline=None, database=None, max_examples=40)
@given(machine=machines())
def test_every_machine_becomes_one_whose_disks_and_networks_fit_together(machine: Machine) -> None:
    found = _said(machine)
    assert _LABEL.fullmatch(found["metadata"]["name"])
    spec = found["spec"]["template"]["spec"]
    devices = spec["domain"]["devices"]
    assert re.fullmatch(r"[1-9][0-9]*(Ki|Mi|Gi)?", spec["domain"]["memory"]["guest"])
    volumes = [each["name"] for each in spec["volumes"]]
    disks = {each["name"]: each for each in devices["disks"]}
    assert set(volumes) <= set(disks) and len(disks) == len(devices["disks"])
    # A disk without a volume can only be an empty CD.
    assert all("cdrom" in disks[name] for name in set(disks) - set(volumes))
    assert [each["name"] for each in spec["networks"]] == [
        each["name"] for each in devices["interfaces"]
    ]
    assert sum("pod" in each for each in spec["networks"]) <= 1
    orders = [each["bootOrder"] for each in (*devices["disks"], *devices["interfaces"])
              if "bootOrder" in each]  # fmt: skip
    assert len(set(orders)) == len(orders)


def test_a_server_keeps_what_there_is_and_the_rest_is_told() -> None:
    found = _said(RICH)
    spec = found["spec"]["template"]["spec"]
    domain = spec["domain"]
    assert found["metadata"]["name"] == "buro-server-nr-3-test-sohne"
    assert found["metadata"]["annotations"]["kubevirt.io/description"] == RICH.description
    assert spec["architecture"] == "amd64"
    assert domain["cpu"] == {"sockets": 2, "cores": 2, "threads": 2, "model": "Skylake-Server"}
    assert domain["firmware"] == {
        "uuid": RICH.uuid, "bootloader": {"efi": {"secureBoot": True}},
    }  # fmt: skip
    assert domain["features"] == {"smm": {"enabled": True}}
    assert domain["memory"] == {"guest": "6Gi"}
    assert domain["devices"]["tpm"] == {}
    losses = {loss.key: loss for loss in kubevirt.write(RICH).losses}
    assert losses["drives[7]"].reason == "KubeVirt has no floppy drives"
    assert losses["name"].instead == "buro-server-nr-3-test-sohne"
    assert losses["firmware.variables"].reason == "KubeVirt keeps them by itself"


def test_a_volume_is_a_claim_and_an_image_comes_in_a_container() -> None:
    drives = (
        Drive(path="fast/web-root", source="volume", bus="virtio", boot=1),
        Drive(path="data.qcow2", bus="virtio", slot=1, format="qcow2", readonly=True, serial="D1"),
        Drive("cdrom", "sata"),
    )
    machine = replace(SMALL, name="web", drives=drives,
                      networks=(Network("virtio", "", "network", "lab/vlan20"),))  # fmt: skip
    spec = _said(machine)["spec"]["template"]["spec"]
    assert spec["volumes"] == [
        {"name": "disk0", "persistentVolumeClaim": {"claimName": "web-root"}},
        {"name": "disk1", "containerDisk": {"image": "registry.example/web-disk1"}},
    ]
    assert spec["domain"]["devices"]["disks"] == [
        {"name": "disk0", "disk": {"bus": "virtio"}, "bootOrder": 1},
        {"name": "disk1", "disk": {"bus": "virtio", "readonly": True}, "serial": "D1"},
        {"name": "disk2", "cdrom": {"bus": "sata"}},
    ]
    assert spec["networks"] == [{"name": "net0", "multus": {"networkName": "lab/vlan20"}}]


def test_nothing_in_a_text_becomes_yaml() -> None:
    machine = replace(SMALL, description="x: !!python/object/apply:os.system ['id']\n- &a *a")
    assert _said(machine)["metadata"]["annotations"]["kubevirt.io/description"] == (
        machine.description
    )
