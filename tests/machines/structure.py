"""What a schema asks of XML, as a table: which children in which order, which attributes, of which
types. `faults` says where a document is otherwise.

A small part of XML Schema, for schemas that may not be passed on with this project: the tables of
`ovf_schema` and `vbox_schema` say in their own words what those ask of elements that we write.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from vmimg.machines import xml

__all__ = ["Rule", "faults", "integer", "one_of"]

Type = Callable[[str], bool]


def integer(low: int, high: int) -> Type:
    def fits(text: str) -> bool:
        return re.fullmatch(r"[+-]?\d{1,25}", text.strip()) is not None and low <= int(text) <= high

    return fits


def one_of(pattern: str) -> Type:
    return lambda text: re.fullmatch(pattern, text, re.DOTALL) is not None


@dataclass(frozen=True)
class Rule:
    """``children``: a regular expression of names, "Info Name? Section*"; None for any.
    ``anywhere``: names in no
    order, each at most once, "Memory CPU?". ``required``, ``optional``: attributes and their types;
    ``closed``: there are no others. ``text``: of an element without children.
    """

    children: str | None = ""
    anywhere: str = ""
    required: Mapping[str, Type] = field(default_factory=dict)
    optional: Mapping[str, Type] = field(default_factory=dict)
    closed: bool = False
    text: Type | None = None


def faults(
    element: xml.Element,
    rules: Mapping[str, Rule],
    word: Callable[[xml.Element], str],
    attribute: Callable[[str], str],
    *,
    head: Callable[[xml.Element], str] | None = None,
    leaf: Callable[[str], bool] = lambda _: False,
    around: str = "",
) -> Iterator[str]:
    """Where ``element`` and what is in it break ``rules``, by names or "parent/name".

    ``word``: what an element is called in the tables; ``head``: what it stands for as a child, if
    that is another name; ``attribute``: what an attribute is called, of its name as lxml has it. An
    element without a rule holds text if it is a ``leaf`` by its name, and else is not looked into.
    """
    name = word(element)
    rule = rules.get(f"{around}/{name}", rules.get(name))
    if rule is None and leaf(name):
        rule = Rule(text=lambda _: True)
    if rule is None:
        return
    names = [(head or word)(each) for each in element]
    if rule.anywhere:
        wanted = rule.anywhere.split()
        known = [each.rstrip("?") for each in wanted]
        for each in names:
            if each not in known or names.count(each) > 1:
                yield f"{name}: {each} may not be there, or not {names.count(each)} times"
        for each in wanted:
            if not each.endswith("?") and each not in names:
                yield f"{name}: has no {each}"
    elif rule.children is not None:
        model = re.sub(r"[\w:]+", r"(?:\g<0>,)", rule.children).replace(" ", "")
        if not re.fullmatch(model, "".join(f"{each}," for each in names)):
            yield f"{name}: holds {' '.join(names) or 'nothing'}, not {rule.children or 'nothing'}"
    told = {attribute(str(key)): str(value) for key, value in element.attrib.items()}
    for key in rule.required:
        if key not in told:
            yield f"{name}: has no attribute {key}"
    for key, value in told.items():
        type_ = rule.required.get(key) or rule.optional.get(key)
        if type_ is not None and not type_(value):
            yield f"{name}: the attribute {key} is '{value}'"
        if type_ is None and rule.closed:
            yield f"{name}: the attribute {key} may not be there"
    between = [element.text, *(each.tail for each in element)]
    if rule.text is None and any((text or "").strip() for text in between):
        yield f"{name}: has text in it"
    if rule.text is not None and not rule.text(element.text or ""):
        yield f"{name}: its text is '{element.text}'"
    for each in element:
        yield from faults(each, rules, word, attribute, head=head, leaf=leaf, around=name)
