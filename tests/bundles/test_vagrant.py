"""Vagrant boxes: made for Vagrant itself, and read whatever their provider."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from boxes_by_hand import MACHINE, SIZE, content, disk_file, opened, pack, tar_file, tree

import peers
from samples import awkward_disk
from vmimg.bundles.archives import DirectoryFolder
from vmimg.bundles.vagrant import VagrantBox
from vmimg.bundles.vagrant import open as open_box
from vmimg.errors import (
    ChainError,
    FormatError,
    OptionError,
    StorageError,
    UnsafeImage,
    UnsupportedFeature,
)
from vmimg.machines.model import Drive, Machine
from vmimg.probe.claims import Claim
from vmimg.transfer.convert import convert

DISK = awkward_disk(SIZE, seed=5)
VAGRANTFILE = b"""# -*- mode: ruby -*-
Vagrant.configure("2") do |config|
  config.vm.base_mac = "080027D14C66"
  config.vm.provider :libvirt do |libvirt|
    libvirt.memory = 2_048
    libvirt.cpus = 2
    libvirt.disk_bus = 'sata'
    libvirt.description = "on #{`hostname`}"
  end
  config.vm.provider "virtualbox" do |vb|
    vb.memory = 512
    vb.customize ["modifyvm", :id, "--cpus", "3"]
  end
end
"""


def vagrant(home: Path, *arguments: str | Path) -> str:
    """Run the real one, which must not look for anything outside of ``home``."""
    peers.require("vagrant")
    settings = {
        "HOME": str(home), "VAGRANT_HOME": str(home / ".vagrant.d"),
        "VAGRANT_CHECKPOINT_DISABLE": "1", "VAGRANT_NO_COLOR": "1", "LC_ALL": "C.UTF-8",
    }  # fmt: skip
    home.mkdir(exist_ok=True)
    done = subprocess.run(
        [str(peers.find("vagrant")), *map(str, arguments)], capture_output=True, cwd=home,
        env=os.environ | settings, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    said = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode == 0, said
    return said


def added(home: Path, provider: str) -> Path:
    """Where Vagrant put the box."""
    return home / ".vagrant.d/boxes/ours/0" / provider


@pytest.mark.peer("vagrant", "qemu-img")
def test_vagrant_adds_the_box_and_finds_the_disk(tmp_path: Path) -> None:
    pack("box", tmp_path / "ours.box", [disk_file(tmp_path)])

    said = vagrant(tmp_path / "home", "box", "add", "--name", "ours", tmp_path / "ours.box")
    assert "Successfully added box 'ours' (v0) for 'libvirt'!" in said
    box = added(tmp_path / "home", "libvirt")
    said = json.loads((box / "metadata.json").read_text())
    assert said == {
        "architecture": "amd64", "format": "qcow2", "provider": "libvirt", "virtual_size": 1,
    }  # fmt: skip
    peers.run("qemu-img", "compare", tmp_path / "disk.raw", box / "box.img")


@pytest.mark.peer("vagrant")
def test_vagrant_adds_a_box_of_two_disks_in_a_tar_gz(tmp_path: Path) -> None:
    disks = [disk_file(tmp_path), disk_file(tmp_path, "more.raw", seed=6)]
    machine = replace(MACHINE, drives=(Drive(bus="virtio"), Drive(bus="virtio", slot=1)))
    pack("box", tmp_path / "ours.box", disks, machine=machine, compression="gzip")

    vagrant(tmp_path / "home", "box", "add", "--name", "ours", tmp_path / "ours.box")
    box = added(tmp_path / "home", "libvirt")
    said = json.loads((box / "metadata.json").read_text())
    assert [disk["path"] for disk in said["disks"]] == ["box_1.img", "box_2.img"]
    with opened(box) as bundle:
        assert content(bundle, "server-disk1") == DISK
        assert content(bundle, "2") == awkward_disk(SIZE, seed=6)


@pytest.mark.peer("vagrant")
def test_ruby_reads_the_vagrantfile_as_we_mean_it(tmp_path: Path) -> None:
    pack("box", tmp_path / "ours.box", [disk_file(tmp_path)])
    peers.run("tar", "-xf", tmp_path / "ours.box", "-C", tmp_path, "Vagrantfile")
    # What Vagrant does with the file, without its classes: every setting is printed.
    script = """
    class Any
      def method_missing(name, *args)
        puts "#{name} #{args.first.inspect}" if name.to_s.end_with?("=")
        yield self if block_given?
        self
      end
    end
    module Vagrant; def self.configure(version); yield Any.new; end; end
    load ARGV[0]
    """
    done = subprocess.run(
        ["ruby", "-e", script, str(tmp_path / "Vagrantfile")], capture_output=True, check=True
    )
    lines = done.stdout.decode().splitlines()
    assert "memory= 2048" in lines and "cpus= 2" in lines
    assert 'base_mac= "525400123456"' in lines
    assert r'description= "A \"server\" \#{of} ours"' in lines


@pytest.mark.parametrize("compression", ["auto", "gzip", "none"])
def test_a_box_is_read_in_place_with_its_machine(tmp_path: Path, compression: str) -> None:
    made = pack("box", tmp_path / "x.box", [disk_file(tmp_path)], compression=compression)

    assert made.losses == ()
    with opened(tmp_path / "x.box") as bundle:
        assert content(bundle) == DISK
        (machine,) = bundle.machines
        assert bundle.facts["provider"] == "libvirt"
    drive = machine.drives[0]
    assert replace(machine, drives=()) == replace(MACHINE, drives=())
    assert (drive.bus, drive.path, drive.format) == ("virtio", "box.img", "qcow2")


def test_the_box_is_the_same_whoever_packs_it_when(tmp_path: Path) -> None:
    for number in (1, 2):
        path = tmp_path / f"{number}.box"
        pack("box", path, [disk_file(tmp_path)], threads=number, compression="gzip")
    assert (tmp_path / "1.box").read_bytes() == (tmp_path / "2.box").read_bytes()


def test_the_size_in_the_metadata_has_room_for_the_disk(tmp_path: Path) -> None:
    disk = tmp_path / "large.raw"
    with open(disk, "wb") as file:
        file.truncate((2 << 30) + 512)
    pack("box", tmp_path / "x.box", [disk])
    with opened(tmp_path / "x.box") as bundle:
        assert bundle.metadata["virtual_size"] == 3


def test_what_a_box_cannot_say_of_its_disks_is_listed(tmp_path: Path) -> None:
    drives = (Drive(bus="scsi", slot=3, serial="A1"), Drive("cdrom", "ide", path="setup.iso"))
    made = pack("box", tmp_path / "x.box", [disk_file(tmp_path)],
                machine=replace(MACHINE, drives=drives))  # fmt: skip
    keys = {loss.key: loss.instead for loss in made.losses}
    assert keys == {"drives[0].slot": 0, "drives[0].serial": "", "drives[1]": None}


@pytest.mark.peer("vagrant")
def test_vagrant_adds_a_box_for_virtualbox(tmp_path: Path) -> None:
    machine = replace(MACHINE, drives=(Drive(bus="sata"),))
    pack("box", tmp_path / "x.box", [disk_file(tmp_path)], machine=machine, provider="virtualbox")

    home = tmp_path / "home"
    vagrant(home, "box", "add", "--name", "ours", "--provider", "virtualbox", tmp_path / "x.box")
    names = {path.name for path in added(home, "virtualbox").iterdir()}
    assert names == {"metadata.json", "Vagrantfile", "box.ovf", "box-disk001.vmdk"}


# Vagrant's own code, in the directory that it made of the box; what it would import is printed.
_IMPORT = """
require "vagrant"
require Gem.loaded_specs["vagrant"].full_gem_path + "/plugins/providers/hyperv/action/import"
box = Struct.new(:directory).new(Pathname.new(ARGV[0]))
driver = Object.new
def driver.has_vmcx_support?; false; end
def driver.import(options); puts JSON.dump(options); { "id" => "made" }; end
provider = Struct.new(:driver).new(driver)
config = Struct.new(:linked_clone, :vmname).new(false, nil)
machine = Struct.new(:box, :provider, :data_dir, :provider_config, :id, :name).new(
  box, provider, Pathname.new("/data"), config)
ui = Object.new
def ui.output(text); end
def ui.detail(text); end
VagrantPlugins::HyperV::Action::Import.new(proc {}, nil).call(machine: machine, ui: ui)
"""


@pytest.mark.peer("vagrant", "qemu-img")
def test_vagrant_adds_a_box_for_hyperv_and_finds_what_it_imports(tmp_path: Path) -> None:
    pack("box", tmp_path / "x.box", [disk_file(tmp_path)], provider="hyperv")

    home = tmp_path / "home"
    said = vagrant(home, "box", "add", "--name", "ours", "--provider", "hyperv", tmp_path / "x.box")
    assert "Successfully added box 'ours' (v0) for 'hyperv'!" in said
    box = added(home, "hyperv")
    assert json.loads((box / "metadata.json").read_text())["provider"] == "hyperv"
    done = subprocess.run(
        ["ruby", "-e", _IMPORT, str(box)], capture_output=True, check=True,
        env=os.environ | {"HOME": str(home), "VAGRANT_HOME": str(home / ".vagrant.d")},
    )  # fmt: skip
    options = json.loads(done.stdout.decode().splitlines()[-1])
    description, disk = (
        Path(options[key].replace("\\", "/")) for key in ("VMConfigFile", "SourcePath")
    )
    assert description.read_bytes().decode("utf-16").count(disk.name) == 1
    peers.run("qemu-img", "compare", tmp_path / "disk.raw", disk)


def test_a_box_for_hyperv_has_one_disk(tmp_path: Path) -> None:
    disks = [disk_file(tmp_path), disk_file(tmp_path, "more.raw", seed=6)]
    machine = replace(MACHINE, drives=(Drive(bus="scsi"), Drive(bus="scsi", slot=1)))
    with pytest.raises(OptionError, match="has one disk, not 2"):
        pack("box", tmp_path / "x.box", disks, machine=machine, provider="hyperv")


@pytest.mark.parametrize("format", ["vhdx", "vhd"])
@pytest.mark.parametrize("compression", ["gzip", "none"])
def test_a_box_for_hyperv_carries_its_disk_in_either_format(
    tmp_path: Path, format: str, compression: str
) -> None:
    pack("box", tmp_path / "x.box", [disk_file(tmp_path)], format=format, provider="hyperv",
         compression=compression)  # fmt: skip
    with opened(tmp_path / "x.box") as bundle:
        assert bundle.disks[0].member == f"Virtual Hard Disks/server-disk1.{format}"
        assert content(bundle) == DISK
        assert bundle.machines[0].networks[0].mac == MACHINE.networks[0].mac


@pytest.mark.parametrize("provider", ["virtualbox", "vmware_desktop", "parallels", "hyperv"])
def test_boxes_for_other_providers_are_read_with_their_machine(
    tmp_path: Path, provider: str
) -> None:
    machine = replace(MACHINE, drives=(Drive(bus="sata"),))
    pack("box", tmp_path / "x.box", [disk_file(tmp_path)], machine=machine, provider=provider)

    with opened(tmp_path / "x.box") as bundle:
        assert bundle.facts["provider"] == provider
        assert content(bundle) == DISK
        (found,) = bundle.machines
    assert (found.memory, found.cpus.count) == (2 << 30, 2)


@pytest.mark.peer("qemu-img", "tar", "dissect.hypervisor")
def test_others_read_the_disk_of_a_parallels_box(tmp_path: Path) -> None:
    from dissect.hypervisor.disk.hdd import HDD

    pack("box", tmp_path / "x.box", [disk_file(tmp_path)], provider="parallels")
    peers.run("tar", "-xzf", tmp_path / "x.box", "-C", tmp_path)

    hdd = tmp_path / "box.pvm/server-disk1.hdd"
    image = hdd / "server-disk1.hdd.0.hds"
    peers.run("qemu-img", "compare", "-F", "parallels", tmp_path / "disk.raw", image)
    with HDD(hdd).open() as stream:
        assert stream.read(SIZE) == DISK


def test_a_box_for_virtualbox_sets_the_address_that_vagrant_asks_for(tmp_path: Path) -> None:
    machine = Machine(name="x", drives=(Drive(bus="sata"),))
    pack("box", tmp_path / "x.box", [disk_file(tmp_path)], machine=machine, provider="virtualbox")
    with opened(tmp_path / "x.box") as bundle:
        assert bundle.facts["base-mac"].startswith("080027")


def test_a_format_that_the_provider_does_not_take_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="qcow2"):
        pack("box", tmp_path / "x.box", [disk_file(tmp_path)], format="vdi")
    assert not (tmp_path / "x.box").exists()


# Boxes of others


@contextmanager
def box(folder: Path, files: dict[str, bytes], **metadata: Any) -> Iterator[VagrantBox]:
    """A box as a directory, with metadata where there is some."""
    if metadata:
        files = {"metadata.json": json.dumps(metadata).encode(), **files}
    with open_box(DirectoryFolder(tree(folder, files)), Claim("vagrant", "bundle", "", 90)) as made:
        yield made


def image(tmp_path: Path, format: str, **options: Any) -> bytes:
    path = tmp_path / f"image.{format}"
    convert(disk_file(tmp_path), path, format=format, options=options, replace=True)
    return path.read_bytes()


def test_the_machine_of_a_libvirt_box_is_in_its_vagrantfile(tmp_path: Path) -> None:
    files = {"box.img": image(tmp_path, "qcow2"), "Vagrantfile": VAGRANTFILE}
    with box(tmp_path / "box", files, provider="libvirt", format="qcow2", virtual_size=20) as found:
        (machine,) = found.machines
        assert (machine.memory, machine.cpus.count) == (2 << 30, 2)
        assert machine.networks[0].mac == "08:00:27:d1:4c:66"
        assert [(drive.bus, drive.size) for drive in machine.drives] == [("sata", 20 << 30)]
        # Nothing is run, and what is put together when it runs is not known.
        assert machine.description == ""
        assert content(found) == DISK


def test_several_disks_have_the_names_of_the_metadata(tmp_path: Path) -> None:
    disks = [{"path": "a/disk1.img"}, {"path": "disk2.img", "name": "secondary_disk"}]
    files = {"a/disk1.img": image(tmp_path, "qcow2"), "disk2.img": image(tmp_path, "qcow2")}
    with box(tmp_path / "box", files, provider="libvirt", disks=disks) as found:
        assert [disk.name for disk in found.disks] == ["disk1", "secondary_disk"]
        assert content(found, "secondary_disk") == DISK


@pytest.mark.parametrize("zipped", [False, True])
def test_a_box_of_the_first_version_is_virtualboxs(tmp_path: Path, zipped: bool) -> None:
    machine = replace(MACHINE, drives=(Drive(bus="sata"),))
    pack("box", tmp_path / "x.box", [disk_file(tmp_path)], machine=machine, provider="virtualbox")
    with tarfile.open(tmp_path / "x.box") as archive:
        members = [(info.name, archive.extractfile(info)) for info in archive]
        files = {name: member.read() for name, member in members if member is not None}
    del files["metadata.json"]
    path = tar_file(tmp_path / "old.box", files)
    if zipped:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, data in files.items():
                packed.writestr(name, data)

    with opened(path) as bundle:
        assert bundle.facts["provider"] == "virtualbox"
        assert bundle.facts["version-of-format"] == 1
        assert content(bundle) == DISK


# The keys that Vagrant's own import (plugins/providers/hyperv/scripts) looks for.
HYPERV = """<?xml version="1.0" encoding="UTF-16"?>
<configuration>
  <_83f8638b-8dca-4152-9eda-2ca8b33039b4_>
    <controller0><drive0>
      <pathname type="string">C:\\Users\\Public\\Virtual Hard Disks\\x.vhdx</pathname>
      <type type="string">VHD</type>
    </drive0></controller0>
  </_83f8638b-8dca-4152-9eda-2ca8b33039b4_>
  <manifest>
    <size type="integer">1</size>
    <vdev001>
      <device type="string">83f8638b-8dca-4152-9eda-2ca8b33039b4</device>
      <instance type="string">83f8638b-8dca-4152-9eda-2ca8b33039b4</instance>
    </vdev001>
  </manifest>
  <properties><name type="string">vagrant</name><subtype type="integer">0</subtype></properties>
  <settings>
    <memory><bank><size type="integer">1024</size></bank></memory>
    <processors><count type="integer">2</count></processors>
  </settings>
</configuration>
"""


def test_a_hyperv_box_has_the_disk_that_lies_in_it(tmp_path: Path) -> None:
    files = {
        "Virtual Hard Disks/x.vhdx": image(tmp_path, "vhdx"),
        "Virtual Machines/box.xml": HYPERV.encode("utf-16"),
    }
    with box(tmp_path / "box", files, provider="hyperv") as found:
        assert content(found) == DISK
        (machine,) = found.machines
        # The path in the description is of the host where it was exported.
        assert found.disks[0].drive == (0, 0)
    assert (machine.name, machine.memory, machine.cpus.count) == ("vagrant", 1024 << 20, 2)


def test_a_box_for_a_cloud_has_no_disk_and_says_so(tmp_path: Path) -> None:
    with box(tmp_path / "box", {"Vagrantfile": VAGRANTFILE}, provider="aws") as found:
        assert found.facts["provider"] == "aws"
        with pytest.raises(OptionError, match="no disk"):
            found.open_disk()


HOSTILE: dict[str, tuple[dict[str, Any], dict[str, bytes]]] = {
    "a path that climbs out": (
        {"provider": "libvirt", "disks": [{"path": "../../etc/passwd"}]}, {},
    ),
    "an absolute path": ({"provider": "libvirt", "disks": [{"path": "/etc/passwd"}]}, {}),
    "a path of Windows": ({"provider": "libvirt", "disks": [{"path": "c:\\boot.ini"}]}, {}),
    "a disk without path": ({"provider": "libvirt", "disks": [{}]}, {}),
    "a disk that is a number": ({"provider": "libvirt", "disks": [7]}, {}),
    "ten thousand disks": ({"provider": "libvirt", "disks": [{"path": "x"}] * 10_000}, {}),
    "a disk that is not there": ({"provider": "libvirt"}, {}),
    "a format that is none": ({"provider": "libvirt", "format": "exe"}, {"box.img": b"x"}),
    "a Vagrantfile that is no text": ({"provider": "libvirt"}, {"Vagrantfile": b"\xff" * 9}),
    "a Vagrantfile beyond reason": ({"provider": "libvirt"}, {"Vagrantfile": b"#" * (2 << 20)}),
    "no machine": ({"provider": "virtualbox"}, {}),
    "an OVF that is none": ({"provider": "virtualbox"}, {"box.ovf": b"<a/>"}),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_box_that_was_made_to_do_harm_is_an_error_of_one_line(tmp_path: Path, name: str) -> None:
    metadata, files = HOSTILE[name]
    errors = (FormatError, UnsafeImage, StorageError, UnsupportedFeature)
    with pytest.raises(errors) as caught, box(tmp_path / "box", files, **metadata):
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{" * 50_000, b"\xff\xfe", b'{"a": ' + b"9" * 5000 + b"}"]
)
def test_metadata_that_is_none_is_an_error(tmp_path: Path, data: bytes) -> None:
    with (
        pytest.raises(FormatError),
        box(tmp_path / "box", {"metadata.json": data, "box.img": b"x"}),
    ):
        pass


def test_a_disk_of_a_box_refers_to_nothing_outside(tmp_path: Path) -> None:
    outside = disk_file(tmp_path, "outside.raw")
    peers.require("qemu-img")
    (tmp_path / "box").mkdir()
    image = tmp_path / "box/box.img"
    peers.run("qemu-img", "create", "-f", "qcow2", "-F", "raw", "-b", outside, image)
    said = json.dumps({"provider": "libvirt", "format": "qcow2", "virtual_size": 1}).encode()
    files = {"metadata.json": said, "box.img": image.read_bytes()}
    with opened(tar_file(tmp_path / "x.box", files)) as bundle, pytest.raises(ChainError):
        content(bundle)
