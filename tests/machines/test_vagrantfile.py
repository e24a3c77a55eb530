"""Vagrantfiles and the metadata of boxes: what is plain in them is read, nothing is run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import peers
from machine_samples import RICH
from vmimg.errors import FormatError
from vmimg.machines.dialects.vagrant import parse, read, settings_of, write, write_for_box
from vmimg.machines.losses import without
from vmimg.machines.model import CPUs, Drive, Machine, Network

# The parts are those that Vagrant's documentation and its providers' show.
FILE = b"""
# config.vm.base_mac = "000000000000"
Vagrant.configure("2") do |config|
  config.vm.box = 'generic/debian12'
  config.vm.base_mac = "080027D14C66"
  config.vm.provider "virtualbox" do |vb, override|
    vb.name = "my_vm"
    vb.memory = 2048
    vb.cpus = "2"
    vb.gui = true
    vb.customize ["modifyvm", :id, "--vram", "16"]
  end
  config.vm.provider :libvirt do |domain|
    domain.memory = 4_096    # in MiB
    domain.cpus = 4
    domain.cputopology :sockets => '2', :cores => '2', :threads => '1'
    domain.cpu_mode = "host-passthrough"
    domain.machine_type = "pc-q35-7.2"
    domain.nic_model_type = "e1000"
    domain.video_type = 'qxl'
    domain.video_vram = 65536
    domain.graphics_type = "spice"
    domain.usb_controller :model => "qemu-xhci"
    domain.title = "it's \\"ours\\" \\u{1f427}"
    domain.description = "on #{`hostname`}"
    domain.keymap = "de"
  end
  config.vm.provider "vmware_desktop" do |v|
    v.vmx["memsize"] = "1024"
    v.vmx["numvcpus"] = "3"
  end
end
"""


def test_the_settings_of_libvirt_are_a_machine() -> None:
    (machine,) = read(FILE, "Vagrantfile")
    assert machine.name == 'it\'s "ours" \U0001f427'
    assert machine.memory == 4096 << 20
    assert machine.cpus == CPUs(4, 2, 2, 1, "host")
    assert machine.chipset == "q35"
    assert machine.networks == (Network("e1000", "08:00:27:d1:4c:66", "nat"),)
    assert machine.display is not None
    assert (machine.display.memory, machine.display.remote) == (64 << 20, "spice")
    assert machine.usb == ("xhci",)
    assert machine.description == ""


def test_every_provider_has_settings_of_its_own() -> None:
    program = parse(FILE, "Vagrantfile")
    one = settings_of(program, "virtualbox")
    assert (one.name, one.memory, one.cpus.count) == ("my_vm", 2048 << 20, 2)
    two = settings_of(program, "vmware_desktop")
    assert (two.memory, two.cpus.count) == (1024 << 20, 3)


def test_what_the_model_has_no_word_for_is_kept_and_written_again() -> None:
    (machine,) = read(FILE, "Vagrantfile")
    kept = dict(machine.extras["vagrant"])
    assert kept["config.vm.box"] == "'generic/debian12'"
    assert kept["libvirt.keymap"] == '"de"'
    assert kept["virtualbox.gui"] == "true"

    written = write(machine)
    (again,) = read(written.data, "Vagrantfile")
    assert again == without(machine, written.losses)
    assert dict(again.extras["vagrant"])["virtualbox.gui"] == "true"


@pytest.mark.parametrize(
    "name",
    ['"; system("touch owned") #', "#{system('touch owned')}", "\\#{`touch owned`}", "a\nb", "\\",
     "%x(touch owned)", "end\u2028end", "\x00\x1b[2J", "a\\", "'\"'"],
)  # fmt: skip
@pytest.mark.peer("vagrant")
def test_a_name_is_never_a_program(tmp_path: Path, name: str) -> None:
    data = write(Machine(name=name, networks=(Network(kind="nat"),))).data
    (machine,) = read(data, "Vagrantfile")
    assert machine.name == name

    (tmp_path / "Vagrantfile").write_bytes(data)
    script = """
    class Any
      def method_missing(name, *args)
        print args.first if name == :title=
        yield self if block_given?
        self
      end
    end
    module Vagrant; def self.configure(version); yield Any.new; end; end
    load "./Vagrantfile"
    """
    done = subprocess.run(["ruby", "-e", script], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout == name.encode()
    assert [path.name for path in tmp_path.iterdir()] == ["Vagrantfile"]


@pytest.mark.peer("vagrant")
def test_ruby_finds_no_fault_with_what_is_written_of_a_rich_machine(tmp_path: Path) -> None:
    peers.require("vagrant")
    (tmp_path / "Vagrantfile").write_bytes(write(RICH).data)
    done = subprocess.run(["ruby", "-wc", "Vagrantfile"], cwd=tmp_path, capture_output=True)
    assert done.stdout == b"Syntax OK\n" and done.stderr == b""


def test_disks_that_a_box_brings_are_not_lost() -> None:
    machine = Machine(
        networks=(Network(kind="nat"),),
        drives=(Drive(bus="sata", path="a"), Drive("cdrom", "ide"), Drive(bus="sata", slot=1)),
    )
    written = write_for_box(machine, [0, 2])
    assert [loss.key for loss in written.losses] == ["drives[1]"]
    assert b'libvirt.disk_bus = "sata"' in written.data


def test_the_metadata_of_a_box_says_its_disks() -> None:
    said = (
        b'{"provider": "libvirt", "format": "qcow2", "virtual_size": 40, "architecture": "arm64"}'
    )
    (machine,) = read(said, "metadata.json")
    assert machine.architecture == "aarch64"
    assert machine.drives == (Drive(path="box.img", format="qcow2", size=40 << 30),)


@pytest.mark.parametrize(
    "said", ["1e400", "-1", '"40"', "true", "[]", "NaN", "9" * 400, "1e18", "null"]
)
def test_a_size_that_is_none_is_not_believed(said: str) -> None:
    data = b'{"provider": "libvirt", "virtual_size": %s}' % said.encode()
    (machine,) = read(data, "metadata.json")
    assert machine.drives[0].size == 0


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe\x00",
        b"#" * (2 << 20),
        b'{"disks": [1]}',
        b'{"disks": [{"path": ""}]}',
        b"{",
        b'{"disks": [' + b'{"path": "x"},' * 9999 + b'{"path": "x"}]}',
    ],
    ids=["no text", "large", "numbers", "no path", "cut off", "many"],
)
def test_what_is_none_is_an_error(text: bytes) -> None:
    with pytest.raises(FormatError):
        read(text, "Vagrantfile")


@pytest.mark.parametrize(
    "text",
    [
        "config.vm.provider :libvirt do |v|\nv.memory = " + "9" * 4000 + "\n",
        "config.vm.provider :libvirt do |v|\nv.memory = -5\nv.cpus = 99999999999\n",
        "v.customize [" + '"a",' * 900 + "]\n" * 50,
        'v.title = "' + "\\" * 4000 + "\n",
        "x.vm.provider(" + " " * 4000 + "\n",
        "a.b" + ".c" * 2000 + " = 1\n",
        "\n" * 100_000 + "v.cpus = 2",
        'config.vm.provider :libvirt do |v|\nv.title = "\\u{ffffffff}\\u{d800}"\n',
    ],
    ids=range(8),
)
@pytest.mark.timeout(20)
def test_a_text_that_was_made_to_do_harm_is_read_in_bounds(text: str) -> None:
    (machine,) = read(text.encode(), "Vagrantfile")
    assert (machine.memory, machine.cpus.count) == (0, 0)
    machine.name.encode()
