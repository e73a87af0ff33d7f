"""The document as JUnit XML, as Jenkins, GitLab and GitHub actions read it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree as ET

from trtbuild.report.rank import problem, sqnr

GENERATOR = "trtbuild"
ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot say, not even escaped (production Char)."""


def junit(document: dict[str, Any]) -> str:
    """One suite of the gate's checks, one of the layers that stand out.

    A layer fails its case when it fails the gate by itself: not compared, or NaN or Inf that the golden
    lacks. One that merely diverged passes, with its figures as output: a diagnosis. `time` is 0: none is
    measured per check.
    """
    prefix = f"{GENERATOR}.{document['engine']}"
    suites = [
        _suite("gate", list(_checks(document, f"{prefix}.gate")), document),
        _suite("layers", list(_tensors(document, prefix)), document),
    ]
    root = ET.Element("testsuites", name=_clean(f"{GENERATOR} {document['engine']} {document['build']}"))
    for key in ("tests", "failures", "errors"):
        root.set(key, str(sum(int(suite.get(key, 0)) for suite in suites)))
    root.set("time", "0")
    root.extend(suites)
    ET.indent(root)
    text: str = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _suite(name: str, cases: list[ET.Element], document: dict[str, Any]) -> ET.Element:
    failures = sum(case.find("failure") is not None for case in cases)
    suite = ET.Element("testsuite", name=name, tests=str(len(cases)), failures=str(failures))
    suite.attrib |= {"errors": "0", "skipped": "0", "time": "0", "timestamp": document["created"][:19]}
    properties = ET.SubElement(suite, "properties")
    for key, value in _properties(document):
        if value is None:
            continue
        ET.SubElement(properties, "property", name=_clean(key), value=_clean(str(value)))
    suite.extend(cases)
    return suite


def _properties(document: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What ran, in names with dots."""
    yield from ((key, document[key]) for key in ("schema_version", "engine", "build", "first_divergence"))
    yield "model.sha256", document["model"]["sha256"]
    yield "artifact.sha256", document["artifact"]["sha256"]
    yield "samples.sha256", document["samples"]["sha256"]
    environment = document["environment"]
    yield from ((f"environment.{key}", environment[key]) for key in ("trtbuild", "python", "platform", "gpu"))
    yield from ((f"package.{name}", version) for name, version in environment["packages"].items())
    yield from ((f"caveat.{number}", text) for number, text in enumerate(document["caveats"], 1))
    yield from ((f"not_checked.{name}", why) for name, why in document["not_checked"].items())


def _checks(document: dict[str, Any], classname: str) -> Iterator[ET.Element]:
    for check in document["checks"]:
        figures = f"seen: {check['seen']}; wanted: {check['wanted']}"
        yield _case(classname, check["name"], figures, "gate" if not check["passed"] else None)


def _tensors(document: dict[str, Any], prefix: str) -> Iterator[ET.Element]:
    advice = {row["tensor"]: row for row in document["worst"]}
    for kind in ("layers", "outputs"):
        for row in document[kind]:
            failed = problem(row)
            diverged = failed is None and sqnr(row["difference"]) < document["diverged_below_db"]
            if failed is None and not (diverged and kind == "layers"):
                continue
            lines = [failed or f"diagnosis, not a failure: below {document['diverged_below_db']:g} dB"]
            lines += [_described(row)]
            worst = advice.get(row["tensor"])
            lines += [worst["advice"], worst["pin"] or ""] if worst else []
            yield _case(f"{prefix}.{kind}", row["tensor"], "\n".join(lines).strip(), failed and "tensor")


def _described(row: dict[str, Any]) -> str:
    lines = [f"node {row['node'] or '-'} ({row['op_type']}), {row['precision']}: {row['reason'] or '-'}"]
    figures = row["difference"] or {}
    lines += [f"{name}: {value:.6g}" for name, value in figures.items() if isinstance(value, int | float)]
    return "\n".join(lines)


def _case(classname: str, name: str, text: str, failure: str | None) -> ET.Element:
    case = ET.Element("testcase", classname=_clean(classname), name=_clean(name), time="0")
    if failure is not None:
        message = _clean(text.partition("\n")[0])
        ET.SubElement(case, "failure", type=failure, message=message).text = _clean(text)
    else:
        ET.SubElement(case, "system-out").text = _clean(text)
    return case


def _clean(text: str) -> str:
    r"""What XML cannot say is shown as Python shows it: \x00."""
    return ILLEGAL.sub(lambda found: ascii(found.group())[1:-1], text)
