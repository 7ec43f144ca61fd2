"""Measurements as a JUnit report, for the tools that watch builds.

The report keeps to the schema of Jenkins' xUnit plugin (junit-10.xsd), which knows properties of a suite only: so every
measurement is a suite, named after its board, with one test case.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no XML 1.0 document may hold; names come from models of any origin."""


@dataclass(frozen=True)
class TestCase:
    """One measurement, as a test."""

    __test__ = False  # no test for pytest

    board: str
    group: str
    """What tests of the same board and device have in common."""
    name: str
    seconds: float
    """The latency."""
    timestamp: str
    """UTC, ISO 8601, without a zone."""
    host: str
    properties: Mapping[str, str]
    failures: Mapping[str, str]
    """Kinds and sentences; none when the measurement is as it should be."""
    output: str
    """What else there is to say."""


def junit_report(cases: Sequence[TestCase]) -> bytes:
    """The XML document."""
    failed = sum(bool(case.failures) for case in cases)
    root = ElementTree.Element(
        "testsuites",
        name="tinynas",
        tests=str(len(cases)),
        failures=str(failed),
        errors="0",
        time=_seconds(sum(case.seconds for case in cases)),
    )
    for case in cases:
        root.append(_suite(case))
    ElementTree.indent(root)
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _suite(case: TestCase) -> ElementTree.Element:
    suite = ElementTree.Element(
        "testsuite",
        name=_text(case.board),
        tests="1",
        failures=str(int(bool(case.failures))),
        errors="0",
        skipped="0",
        time=_seconds(case.seconds),
        timestamp=case.timestamp,
        hostname=_text(case.host),
    )
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in case.properties.items():
        ElementTree.SubElement(properties, "property", name=_text(name), value=_text(value))
    test = ElementTree.SubElement(
        suite, "testcase", classname=_text(case.group), name=_text(case.name), time=_seconds(case.seconds)
    )
    for kind, sentence in case.failures.items():
        failure = ElementTree.SubElement(test, "failure", type=kind, message=_text(sentence))
        failure.text = _text(sentence)
    if case.output:
        ElementTree.SubElement(test, "system-out").text = _text(case.output)
    return suite


def _seconds(value: float) -> str:
    return f"{value:.9f}"


def _text(value: str) -> str:
    return _NOT_XML.sub("?", value)
