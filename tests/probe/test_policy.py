"""Policies: what they take, what they make of findings, and what is said of one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

import peers
from vmimg.errors import OptionError, StorageError
from vmimg.formats.registry import FORMATS
from vmimg.formats.vetting import CODES, Finding, Severity
from vmimg.probe.policy import BUILT_IN, Policy
from vmimg.probe.vetting import vet


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_policy_names_only_what_there_is(name: str) -> None:
    policy = Policy.load(name)
    assert policy.title
    known = {*FORMATS, "ova", "docker", "oci", "compressed", "aki", "ari"}
    assert set(policy.formats) <= known
    assert set(policy.subformats) <= set(FORMATS)
    assert set(policy.refuse) <= {"*", *CODES} and set(policy.allow) <= set(CODES)


def test_strict_makes_an_error_of_every_warning_and_desktop_of_none() -> None:
    strict, desktop = Policy.load("strict"), Policy.load("desktop")
    for code, kind in CODES.items():
        finding = Finding.of(code)
        assert (strict.judge(finding).severity == Severity.ERROR) == (
            kind.severity >= Severity.WARNING
        )
        assert desktop.judge(finding).severity <= kind.severity


def test_what_a_policy_allows_is_a_note_even_if_it_refuses_everything() -> None:
    policy = Policy.parse(b'refuse = ["*"]\nallow = ["hidden-data"]', "ours")
    assert policy.judge(Finding.of("hidden-data")).severity == Severity.NOTE
    assert policy.judge(Finding.of("encrypted")).severity == Severity.ERROR


def test_a_policy_based_on_another_keeps_the_rest_of_it(tmp_path: Path) -> None:
    path = tmp_path / "ours.toml"
    path.write_text('based-on = "openstack"\nmax-virtual-size = "1G"\n')
    ours, openstack = Policy.load(path), Policy.load("openstack")
    assert ours.max_virtual_size == 1 << 30
    assert (ours.formats, ours.subformats, ours.refuse) == (
        openstack.formats,
        openstack.subformats,
        openstack.refuse,
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("formats = 3", "formats is not a list of names"),
        ("max-virtual-size = 0", "max-virtual-size is not a size"),
        ("max-virtual-size = true", "max-virtual-size is not a size"),
        ('max-virtual-size = "much"', "'much'"),
        ('allow = ["nothing-like-that"]', "'nothing-like-that'"),
        ('allow = ["*"]', "'*'"),
        ('refuse = ["backing-file", 3]', "refuse is not a list of names"),
        ("subformats = 3", "subformats is not a table"),
        ("[subformats]\nvmdk = 3", "subformats is not a table"),
        ("[subformats", "is no policy"),
        ('based-on = "ours"', "based-on is one of strict"),
        ("title = 3", "title is not text"),
        ("size = 3", "has no key 'size'"),
        ("\x00", "is no policy"),
        ("max-virtual-size = " + "9" * 5000, "is no policy"),
        (f'max-virtual-size = "{"9" * 5000}"', "max-virtual-size is not a size"),
        (r'max-virtual-size = "much\nmore"', "'much?more'"),
        (r'allow = ["nothing\nlike that"]', "'nothing?like that'"),
        (r'"si\nze" = 3', "has no key 'si?ze'"),
    ],
)
def test_what_is_wrong_with_a_policy_is_said(text: str, says: str) -> None:
    with pytest.raises(OptionError) as error:
        Policy.parse(text.encode(), "ours.toml")
    assert "ours.toml" in str(error.value) and says in str(error.value)
    assert str(error.value).isprintable()


def test_a_policy_that_is_not_there_is_an_error_with_the_names_of_those_that_are() -> None:
    with pytest.raises(OptionError, match="strict, openstack, desktop"):
        Policy.load("lenient")


def test_a_directory_is_no_policy(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        Policy.load(tmp_path)


@pytest.mark.peer("qemu-img")
def test_the_limits_of_a_policy_hold(tmp_path: Path) -> None:
    image = tmp_path / "disk.vmdk"
    peers.run("qemu-img", "create", "-f", "vmdk", image, "2G")
    policy = Policy.parse(
        b'max-virtual-size = "1G"\nformats = ["vmdk"]\n[subformats]\nvmdk = ["streamOptimized"]',
        "ours",
    )
    found = {f.code for f in vet(image, policy=policy).findings if f.severity == Severity.ERROR}
    assert found == {"too-large", "subformat-not-allowed"}
    only = Policy.parse(b'formats = ["qcow2"]', "ours")
    assert [f.code for f in vet(image, policy=only).findings] == ["format-not-allowed"]
