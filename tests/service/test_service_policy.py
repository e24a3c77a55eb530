"""Rules: what they can say, what is told of mistakes, and what the defaults allow whom."""

from __future__ import annotations

import pytest

from vmimg.errors import OptionError
from vmimg.service.identity.caller import Caller
from vmimg.service.policy import DEFAULTS, Policy, Target

OWN = Target(owner="blue")
OTHERS = Target(owner="green")
SHARED = Target(owner="green", visibility="shared", is_member=True)
PUBLIC = Target(owner="green", visibility="public")


def _caller(*roles: str, project: str | None = "blue") -> Caller:
    return Caller(user="somebody", project=project, roles=frozenset(roles))


def _allows(said: str, caller: Caller, target: Target) -> bool:
    return Policy({"delete_image": said}).allows("delete_image", caller, target)


def test_conditions_look_at_the_caller_and_at_the_thing() -> None:
    member = _caller("member")
    for said, target, allowed in (
        ("role:member", OTHERS, True),
        ("role:Member", OTHERS, True),
        ("role:admin", OWN, False),
        ("owner", OWN, True),
        ("owner", OTHERS, False),
        ("member", SHARED, True),
        ("member", PUBLIC, False),
        ("public", PUBLIC, True),
        ("public or community", SHARED, False),
        ("shared", SHARED, True),
        ("all", OTHERS, True),
        ("none", OWN, False),
    ):
        assert (_allows(said, member, target), said) == (allowed, said)


def test_and_binds_closer_than_or_and_brackets_closer_still() -> None:
    member = _caller("member")
    for said, allowed in (
        ("all or none and none", True),
        ("(all or none) and none", False),
        ("not none and all", True),
        ("not (none or all)", False),
        ("not not all", True),
        ("((owner))", True),
    ):
        assert (_allows(said, member, OWN), said) == (allowed, said)


def test_nobody_owns_what_has_no_owner() -> None:
    assert not _allows("owner", _caller("member", project=None), Target(owner=None))


def test_rules_are_named_in_other_rules() -> None:
    rules = {"delete_image": "rule:keepers and owner", "keepers": "role:keeper or role:admin"}
    policy = Policy(rules)
    assert policy.allows("delete_image", _caller("keeper"), OWN)
    assert not policy.allows("delete_image", _caller("keeper"), OTHERS)
    assert not policy.allows("delete_image", _caller("member"), OWN)


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        ({"delete_imag": "all"}, "policy.delete_imag: there is no such rule"),
        ({"delete_image": "rolle:admin"}, "'rolle:admin' is no condition"),
        ({"delete_image": "role:"}, "'role:' is no condition"),
        ({"delete_image": "(all"}, "a bracket is not closed"),
        ({"delete_image": "all)"}, "is not expected"),
        ({"delete_image": "all all"}, "'all' is not expected"),
        ({"delete_image": "all or"}, "ends where a condition is expected"),
        ({"delete_image": ""}, "ends where a condition is expected"),
        ({"delete_image": "all & none"}, "cannot be read from"),
        ({"delete_image": "rule:nothing"}, "'rule:nothing' is no condition"),
        ({"delete_image": "rule:delete_image"}, "refer to each other in a circle"),
        ({"delete_image": "(" * 1000 + "all" + ")" * 1000}, "policy.delete_image"),
        ({"delete_image": "not " * 1000 + "all"}, "policy.delete_image"),
    ],
)
def test_a_mistake_is_told_with_its_rule(rules: dict[str, str], why: str) -> None:
    with pytest.raises(OptionError) as told:
        Policy(rules)
    assert why in str(told.value)


def test_what_the_defaults_allow() -> None:
    policy = Policy()
    admin, member, reader, service = (
        _caller("admin", "member", "reader"),
        _caller("member", "reader"),
        _caller("reader"),
        _caller("service"),
    )
    for rule, target, allowed in (
        ("add_image", OWN, (admin, member)),
        ("add_image", OTHERS, (admin,)),
        ("get_image", OWN, (admin, member, reader)),
        ("get_image", OTHERS, (admin,)),
        ("get_image", SHARED, (admin, member, reader)),
        ("get_image", PUBLIC, (admin, member, reader)),
        ("download_image", PUBLIC, (admin, member)),
        ("download_image", SHARED, (admin, member)),
        ("modify_image", OWN, (admin, member)),
        ("modify_image", SHARED, (admin,)),
        ("delete_image", PUBLIC, (admin,)),
        ("publicize_image", OWN, (admin,)),
        ("communitize_image", OWN, (admin, member)),
        ("add_member", OWN, (admin, member)),
        ("get_members", SHARED, (admin, member, reader)),
        ("modify_member", SHARED, (admin, member)),
        ("modify_member", OWN, (admin,)),
        ("deactivate", OWN, (admin, member)),
        ("copy_image", OWN, (admin,)),
        ("delete_image_location", OWN, (admin,)),
        ("fetch_image_location", OWN, (admin, service)),
        ("stores_info_detail", OWN, (admin, service)),
        ("tasks_api_access", OWN, (admin,)),
        ("add_metadef_namespace", OWN, (admin,)),
    ):
        found = [
            caller
            for caller in (admin, member, reader, service)
            if policy.allows(rule, caller, target)
        ]
        assert (rule, found) == (rule, list(allowed))
    assert all(policy.allows(rule, admin, OTHERS) for rule in DEFAULTS)
