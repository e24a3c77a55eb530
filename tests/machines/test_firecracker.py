"""Firecracker's configuration: the fields and types of its API's description."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hypothesis import given, settings

from machine_samples import RICH, SMALL, machines
from vmimg.machines.dialects import firecracker
from vmimg.machines.model import CPUs, Drive, Machine, Network


def _said(machine: Machine) -> dict[str, Any]:
    found = json.loads(firecracker.write(machine).data)
    assert isinstance(found, dict)
    return found


@settings(derandomize=True, deadline=None, database=None, max_examples=30)
@given(machine=machines())
def test_every_machine_becomes_one_that_firecracker_accepts(machine: Machine) -> None:
    said = _said(machine)
    assert set(said) == {"boot-source", "drives", "machine-config", "network-interfaces"}
    assert said["boot-source"]["kernel_image_path"]
    assert 1 <= said["machine-config"]["vcpu_count"] <= 32
    assert said["machine-config"]["mem_size_mib"] >= 1
    assert sum(drive["is_root_device"] for drive in said["drives"]) == bool(said["drives"])
    for drive in said["drives"]:
        assert drive["path_on_host"] and isinstance(drive["is_read_only"], bool)
        assert drive["drive_id"].isalnum()
    names = [each["host_dev_name"] for each in said["network-interfaces"]]
    assert len(set(names)) == len(machine.networks)


def test_only_disks_are_taken_and_the_others_told() -> None:
    losses = {loss.key: loss for loss in firecracker.write(RICH).losses}
    assert losses["drives[0]"].reason == "Firecracker has no CD drives"
    assert losses["drives[7]"].reason == "Firecracker has no floppy drives"
    assert losses["firmware.kind"].reason == "Firecracker boots a kernel, without firmware"
    assert losses["drives[4].format"].instead == "raw"
    assert losses["networks[1].model"].instead == "virtio"
    said = _said(RICH)
    assert [drive["path_on_host"] for drive in said["drives"]] == [
        drive.path for drive in RICH.drives if drive.device == "disk"
    ]


def test_the_disk_that_boots_first_is_the_root() -> None:
    drives = (
        Drive(path="data.raw", format="raw", bus="virtio", readonly=True),
        Drive(path="root.raw", format="raw", bus="virtio", slot=1, boot=1),
    )
    said = _said(replace(SMALL, drives=drives))
    assert [drive["is_root_device"] for drive in said["drives"]] == [False, True]
    assert [drive["is_read_only"] for drive in said["drives"]] == [True, False]


def test_more_processors_than_there_can_be_are_cut_and_told() -> None:
    written = firecracker.write(replace(SMALL, cpus=CPUs(64), networks=(Network("virtio"),)))
    (loss,) = [loss for loss in written.losses if loss.key == "cpus.count"]
    assert loss.instead == 32
    assert json.loads(written.data)["machine-config"]["vcpu_count"] == 32
