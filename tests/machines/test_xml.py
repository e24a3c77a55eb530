"""machines/xml: a stranger's XML is read or refused in one clear line, ours is always the same."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmimg.errors import FormatError
from vmimg.machines import xml

BOMB = b"""<?xml version="1.0"?>
<!DOCTYPE m [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<m>&b;</m>"""


def test_a_document_is_read_with_or_without_namespaces() -> None:
    for data in (
        b"<a><b n='7'>x</b></a>",
        b"<o:a xmlns:o='urn:o'><o:b o:n='7'> x\n</o:b></o:a>",
        "<?xml version='1.0' encoding='UTF-16'?><a><b n='7'>x</b></a>".encode("utf-16"),
    ):
        root = xml.parse(data, "t.xml", root="a")
        found = xml.child(root, "b")
        assert found is not None
        assert (xml.text(root, "b"), xml.attribute(found, "n")) == ("x", "7")


def test_a_path_of_names_goes_where_it_leads_on() -> None:
    root = xml.parse(b"<a><b/><b><c>one</c></b><b><c>two</c></b></a>", "t.xml")
    assert xml.text(root, "b", "c") == "one"
    assert xml.find(root, "b", "d") is None
    assert xml.text(root, "b", "d", default="none") == "none"


def test_children_can_be_asked_of_one_namespace() -> None:
    root = xml.parse(b"<a xmlns:p='urn:p'><p:b/><b/></a>", "t.xml")
    assert [xml.namespace(each) for each in xml.children(root, "b")] == ["urn:p", ""]
    assert len(list(xml.children(root, "b", within="urn:p"))) == 1


def test_an_attribute_of_the_right_namespace_wins() -> None:
    root = xml.parse(b"<a id='plain' xmlns:o='urn:o' o:id='right'/>", "t.xml")
    assert xml.attribute(root, "id", within="urn:o") == "right"
    assert xml.attribute(root, "id") == "plain"
    assert xml.attribute(root, "id", within="urn:other") == "plain"


@pytest.mark.parametrize(
    "data",
    [
        BOMB,
        b"<!DOCTYPE m SYSTEM 'http://127.0.0.1:1/x.dtd'><m/>",
        b"<!DOCTYPE m [<!ENTITY % p SYSTEM 'file:///etc/passwd'> %p;]><m/>",
        b"<!DOCTYPE m [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><m>&e;</m>",
        BOMB.decode().encode("utf-16"),
    ],
)
def test_a_document_type_is_refused_before_it_is_used(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connects(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", connects)
    with pytest.raises(FormatError, match=r"bad\.xml: the XML has a document type"):
        xml.parse(data, "bad.xml")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no element found"),
        (b"<a>", r"line 1: no element found"),
        (b"<a>\n\n<b></a>", "line 3: mismatched tag"),
        (b"\x00\x01\x02", "broken in line 1"),
        (b"<a>\xff</a>", "line 1"),
        (b"<a>&nbsp;</a>", "undefined entity"),
        (b"<a>" * 300 + b"</a>" * 300, "more than 250 elements deep"),
        (b"<a>" + b"<b/>" * 200_001 + b"</a>", "more than 200000 elements"),
        (b"<a b='" + b"x" * (10 << 20) + b"'/>", "attributes of more than"),
        (b"<a>" + b" " * (16 << 20) + b"</a>", "bytes, more than"),
        (b"<?xml version='1.0' encoding='UTF-7'?><a/>", "encoding 'UTF-7'"),
        (b"<p:a/>", "broken in line 1"),
        (b"<b/>", "the root element is <b>, not <a> or <c>"),
    ],
)
def test_what_is_no_description_is_refused_in_one_line(data: bytes, words: str) -> None:
    with pytest.raises(FormatError, match=words) as caught:
        xml.parse(data, "dir/bad.xml", root=("a", "c"))
    assert str(caught.value).startswith("dir/bad.xml: ")
    assert "\n" not in str(caught.value)


def test_as_deep_as_snapshots_nest_is_read() -> None:
    assert xml.parse(b"<a>" * 240 + b"</a>" * 240, "deep.xml") is not None


def test_includes_and_stylesheets_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.xml"
    secret.write_text("<s>secret</s>")
    data = (
        f"<?xml-stylesheet href='{secret}'?><a xmlns:i='http://www.w3.org/2001/XInclude'>"
        f"<!-- gone --><i:include href='{secret}'/></a>"
    )
    root = xml.parse(data.encode(), "t.xml")
    assert "secret" not in xml.text(root)
    assert [xml.local(each) for each in root] == ["include"]


@given(st.binary(max_size=300))
def test_any_bytes_are_xml_or_a_format_error(data: bytes) -> None:
    try:
        xml.parse(data, "x")
    except FormatError:
        pass


@pytest.mark.parametrize(
    ("value", "words"),
    [("-1", "may be 0 to"), ("1e9", "no number"), ("0x10", "no number"), ("9" * 25, "may be")],
)
def test_a_number_that_makes_no_sense_is_named(value: str, words: str) -> None:
    with pytest.raises(FormatError, match=f"a.ovf: the capacity .*{words}"):
        xml.number(value, "the capacity", "a.ovf")


def test_numbers_and_truth_values() -> None:
    assert xml.number(" 12 ", "x", "f") == 12
    assert xml.number("", "x", "f", default=3) == 3
    assert xml.number("-4", "x", "f", low=-8) == -4
    assert [xml.flag(each) for each in ("true", "No", "1", "maybe")] == [True, False, True, None]


@given(st.text())
def test_any_text_is_written_and_read_back(value: str) -> None:
    root = xml.make("a", {"b": value})
    xml.make("c", content=value, parent=root)
    read = xml.parse(xml.serialise(root), "t.xml")
    wanted = xml.printable(value)
    assert xml.attribute(read, "b") == wanted
    assert (read[0].text or "") == wanted


def test_what_we_write_has_a_declaration_and_is_indented() -> None:
    root = xml.make("{urn:o}a", nsmap={None: "urn:o"})
    xml.make("{urn:o}b", content="é", parent=root)
    assert xml.serialise(root).decode() == (
        '<?xml version="1.0" encoding="UTF-8"?>\n<a xmlns="urn:o">\n  <b>é</b>\n</a>\n'
    )


def test_an_element_is_kept_as_text_however_it_was_indented() -> None:
    one = xml.parse(b"<r xmlns:p='urn:p'><p:a>\n  <p:b c='1'/>\n</p:a></r>", "t.xml")[0]
    other = xml.parse(b"<r xmlns:p='urn:p'  xmlns:q='urn:q'><p:a><p:b c='1'/></p:a></r>", "t")[0]
    assert xml.encoded(one) == xml.encoded(other)
    assert xml.encoded(xml.snippet(xml.encoded(one))) == xml.encoded(one)
