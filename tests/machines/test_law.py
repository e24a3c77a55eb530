"""The law of all dialects: what a writer does not list as lost, its reader finds as it was.

And between any two of them: what both can say survives the way from one to the other. Dialects come
from the registry; one that has no code yet fails here under its own name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields, replace
from importlib import import_module

import pytest
from hypothesis import HealthCheck, given, settings

from machine_samples import RICH, SMALL, machines
from rounds import rounds
from vmimg.errors import OptionError, VmimgError
from vmimg.machines.dialect import Written
from vmimg.machines.losses import Loss, foreign, without
from vmimg.machines.model import CPUs, Firmware, Machine
from vmimg.machines.registry import DIALECTS

WRITING = [name for name, dialect in DIALECTS.items() if dialect.writes]
BOTH = [name for name, dialect in DIALECTS.items() if dialect.writes and dialect.reads]
PAIRS = [(one, other) for one in BOTH for other in BOTH if one != other]

_steadily = settings(
    max_examples=rounds(25),
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def _told(losses: Iterable[Loss]) -> str:
    return "\n".join(
        f"{loss.key}: {loss.value!r}: {loss.reason} -> {loss.instead!r}" for loss in losses
    )


def _there_and_back(name: str, machine: Machine) -> tuple[Machine, Written]:
    """What the dialect's reader finds in the dialect's own text."""
    written = DIALECTS[name].write(machine)
    module = import_module(DIALECTS[name].implementation)
    if hasattr(module, "read_with"):  # what is beside the main file tells of snapshots
        found = module.read_with(written.data, machine.name, written.files)
    else:
        found = DIALECTS[name].read(written.data, machine.name)
    assert len(found) == 1
    return found[0], written


def _obeys(name: str, machine: Machine) -> tuple[Machine, Written]:
    """Hold one dialect to the law, place by place, so that a failure says which."""
    found, written = _there_and_back(name, machine)
    expected = without(machine, written.losses)
    for field in fields(Machine):
        is_, should = getattr(found, field.name), getattr(expected, field.name)
        assert is_ == should, f"{name}: {field.name}\n{_told(written.losses)}"
    return found, written


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_of_the_registry_has_code_for_what_its_row_says(name: str) -> None:
    dialect = DIALECTS[name]
    module = import_module(dialect.implementation)
    assert hasattr(module, "read") or not dialect.reads
    assert hasattr(module, "write") or not dialect.writes


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("machine", [SMALL, RICH], ids=["small", "rich"])
def test_what_is_not_listed_as_lost_is_found_as_it_was(name: str, machine: Machine) -> None:
    _obeys(name, machine)


@pytest.mark.parametrize("name", BOTH)
def test_a_machine_of_which_nothing_is_said_obeys_the_law(name: str) -> None:
    _obeys(name, Machine(name="bare"))


@pytest.mark.parametrize("name", BOTH)
@_steadily
@given(machine=machines())
def test_the_law_holds_for_any_machine(name: str, machine: Machine) -> None:
    _obeys(name, machine)


@pytest.mark.parametrize("name", BOTH)
def test_a_description_of_several_lines_is_kept_or_told(name: str) -> None:
    _obeys(name, replace(RICH, description="first line\n\n  third & last: |22 %0A \\n"))


@pytest.mark.parametrize("name", WRITING)
def test_what_only_another_dialect_says_is_told(name: str) -> None:
    other = "vmx" if name != "vmx" else "libvirt"
    machine = replace(RICH, extras={other: (("annotation.x", "one"), ("tools.y", "two"))})
    losses = DIALECTS[name].write(machine).losses
    assert {each.key for each in foreign(machine, name)} <= {loss.key for loss in losses}


@pytest.mark.parametrize("name", WRITING)
@_steadily
@given(machine=machines())
def test_the_image_makes_up_for_a_size_that_is_not_said_and_for_nothing_else(
    name: str, machine: Machine
) -> None:
    try:
        written = DIALECTS[name].write(machine)
    except OptionError:
        return
    for loss in written.losses:
        size = re.fullmatch(r"drives\[(\d+)\]\.size", loss.key)
        unsaid = size is not None and not loss.instead
        assert (loss.said_by == "image") == (unsaid and bool(machine.drives[int(size[1])].path))
        assert loss.to_json()["said-by"] == (loss.said_by or None)


@pytest.mark.parametrize("name", WRITING)
@pytest.mark.parametrize("machine", [SMALL, RICH], ids=["small", "rich"])
def test_the_same_machine_gives_the_same_bytes(name: str, machine: Machine) -> None:
    dialect = DIALECTS[name]
    assert dialect.write(machine) == dialect.write(machine)


@pytest.mark.parametrize("name", WRITING)
def test_each_loss_names_a_place_once_and_says_why(name: str) -> None:
    losses = DIALECTS[name].write(RICH).losses
    keys = [loss.key for loss in losses]
    assert len(keys) == len(set(keys))
    for loss in losses:
        assert loss.reason
        assert re.fullmatch(r"[a-z]+(\[\d+\])?(\.[a-z0-9_-]+(\[\d+\])?)*", loss.key), loss.key


@pytest.mark.parametrize("name", BOTH)
def test_text_that_is_of_no_dialect_is_an_error_of_vmimg(name: str) -> None:
    for data in (b"", b"\0" * 512, b"\xff\xfe<a/>", b"<domain", b"{", b"[" * 5000, b"no = such"):
        try:
            found = DIALECTS[name].read(data, "nonsense")
        except VmimgError as error:
            assert "\n" not in str(error)
        else:
            assert all(isinstance(machine, Machine) for machine in found)


def test_a_dialect_that_is_only_written_cannot_be_read() -> None:
    with pytest.raises(OptionError, match="written, not read"):
        DIALECTS["qemu"].read(b"", "x")


def _under(key: str, losses: Iterable[Loss]) -> bool:
    """Whether one of the losses is of that place, of one inside, or of one around it."""
    return any(
        loss.key == key
        or loss.key.startswith((key + ".", key + "["))
        or key.startswith((loss.key + ".", loss.key + "["))
        for loss in losses
    )


def _survives(one: str, other: str, machine: Machine) -> None:
    first, said = _obeys(one, machine)
    second, then = _obeys(other, first)
    # What the second would lose of the machine itself is lost on the way as well. What it loses of
    # `first` it lost only if `first` has it: a list that came through whole has its old places.
    losses = [*said.losses, *DIALECTS[other].write(machine).losses, *then.losses]
    for field in fields(Machine):
        if field.name in ("extras", "controllers"):  # controllers may be told where they were not
            continue
        before, after = getattr(machine, field.name), getattr(second, field.name)
        if isinstance(before, (Firmware, CPUs)):
            for inner in fields(before):
                key = f"{field.name}.{inner.name}"
                if not _under(key, losses):
                    assert getattr(after, inner.name) == getattr(before, inner.name), key
        elif not _under(field.name, losses):
            assert after == before, field.name
        elif isinstance(before, tuple) and len(before) == len(after) and before:
            if any(re.fullmatch(rf"{field.name}(\[\d+\])?", loss.key) for loss in losses):
                continue
            for at, (was, is_) in enumerate(zip(before, after, strict=True)):
                for inner in fields(was):
                    key = f"{field.name}[{at}].{inner.name}"
                    if not _under(key, losses):
                        assert getattr(is_, inner.name) == getattr(was, inner.name), key


@pytest.mark.parametrize(("one", "other"), PAIRS, ids="-".join)
def test_what_two_dialects_can_say_survives_from_one_to_the_other(one: str, other: str) -> None:
    _survives(one, other, RICH)
    _survives(one, other, SMALL)


@pytest.mark.parametrize("one", BOTH)
@settings(_steadily, max_examples=rounds(3))
@given(machine=machines())
def test_any_machine_survives_as_far_as_two_dialects_can_say_it(one: str, machine: Machine) -> None:
    for other in BOTH:
        if other != one:
            _survives(one, other, machine)
