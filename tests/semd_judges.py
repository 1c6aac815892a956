"""Outside judges of a SEMD: the Ministry's schema, its Schematron, and the federal dictionaries.

The Schematron is turned into one stylesheet (a mode for each pattern, the first rule that fits a node is its rule, as
ISO 19757-3 has it) and run by Saxon; lxml knows only XPath 1. The rules name elements without their namespace, so the
document's default namespace is taken off before.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lxml import etree
from saxonche import PySaxonProcessor, PyXsltExecutable

SCH = "{http://purl.oclc.org/dsdl/schematron}"
XSL = "http://www.w3.org/1999/XSL/Transform"
V3 = "urn:hl7-org:v3"


def _xsl(parent: etree._Element, name: str, **attributes: str) -> etree._Element:
    return etree.SubElement(parent, f"{{{XSL}}}{name}", attributes)


def stylesheet(schematron: Path) -> bytes:
    """XSLT 3 that gives one line of text for each failed assert and each report that fired."""
    rules = etree.parse(str(schematron)).getroot()
    spaces = {element.get("prefix"): element.get("uri") for element in rules.iter(f"{SCH}ns")}
    sheet = etree.Element(f"{{{XSL}}}stylesheet", version="3.0", nsmap={"xsl": XSL, **spaces})
    _xsl(sheet, "output", method="text")
    patterns = list(rules.iter(f"{SCH}pattern"))
    start = _xsl(sheet, "template", match="/", priority="1000000")
    for number, pattern in enumerate(patterns):
        mode = f"pattern{number}"
        _xsl(start, "apply-templates", select=".", mode=mode)
        found = list(pattern.iter(f"{SCH}rule"))
        for place, rule in enumerate(found):
            template = _xsl(sheet, "template", match=rule.get("context"), mode=mode, priority=str(1000 - place))
            for check in rule.iter(f"{SCH}assert", f"{SCH}report"):
                test = check.get("test")
                holds = test if check.tag == f"{SCH}report" else f"not({test})"
                wrong = _xsl(template, "if", test=holds)
                line = _xsl(wrong, "text")
                line.text = f"{(check.text or '').strip()}\n"
            _xsl(template, "apply-templates", select="node()", mode=mode)
        below = _xsl(sheet, "template", match="@*|node()", mode=mode, priority="-1000")
        _xsl(below, "apply-templates", select="node()", mode=mode)
        if not any(rule.get("context") == "/" for rule in found):
            top = _xsl(sheet, "template", match="/", mode=mode, priority="-999")
            _xsl(top, "apply-templates", select="node()", mode=mode)
    return etree.tostring(sheet)


@dataclass(frozen=True)
class Mismatch:
    """A code, name or version that is not the dictionary's."""

    dictionary: str
    code: str
    what: str


class SemdJudges:
    """The judges over one folder of the Ministry's files; schema, stylesheet and dictionaries are read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def _schema(self) -> etree.XMLSchema:
        return etree.XMLSchema(etree.parse(str(self._folder / "edition4" / "CDA.xsd")))

    @cached_property
    def _processor(self) -> PySaxonProcessor:
        return PySaxonProcessor(license=False)

    @cached_property
    def _rules(self) -> PyXsltExecutable:
        text = stylesheet(self._folder / "edition4" / "schematron.sch").decode()
        return self._processor.new_xslt30_processor().compile_stylesheet(stylesheet_text=text)

    @cached_property
    def dictionaries(self) -> dict[str, tuple[str, str, dict[str, str]]]:
        """OID to version, name and codes."""
        nsi = self._folder / "nsi"
        with (nsi / "index.csv").open(encoding="utf-8-sig", newline="") as index:
            rows = list(csv.DictReader(index))
        found = {}
        for row in rows:
            with (nsi / f"{row['oid']}_{row['version']}.csv").open(encoding="utf-8-sig", newline="") as lines:
                codes = {line["code"]: line["name"] for line in csv.DictReader(lines)}
            found[row["oid"]] = (row["version"], row["name"], codes)
        return found

    def schema_errors(self, document: bytes) -> list[str]:
        """What the schema objects to."""
        self._schema.validate(etree.fromstring(document))
        return [f"line {error.line}: {error.message}" for error in self._schema.error_log]

    def failed_asserts(self, document: bytes) -> list[str]:
        """Texts of the Schematron's rules that the document breaks."""
        root = etree.fromstring(document)
        for element in root.iter(f"{{{V3}}}*"):
            element.tag = etree.QName(element).localname
        etree.cleanup_namespaces(root, keep_ns_prefixes=["xsi"])
        node = self._processor.parse_xml(xml_text=etree.tostring(root, encoding="unicode"))
        said = self._rules.transform_to_string(xdm_node=node) or ""
        return [line for line in said.splitlines() if line.strip()]

    def mismatches(self, document: bytes) -> list[Mismatch]:
        """Codes that are not the dictionaries'; dictionaries that are not in the folder are not judged."""
        found = []
        for element in etree.fromstring(document).iter(etree.Element):
            oid, code = element.get("codeSystem"), element.get("code") or ""
            if oid not in self.dictionaries:
                continue
            version, name, codes = self.dictionaries[oid]
            said = {
                "version": element.get("codeSystemVersion") == version,
                "dictionary name": element.get("codeSystemName") == name,
                "code": code in codes,
                "name": codes.get(code) == element.get("displayName"),
            }
            found += [Mismatch(oid, code, what) for what, right in said.items() if not right]
        return found

    def unjudged(self, document: bytes) -> set[str]:
        """Dictionaries of the document that the folder does not have."""
        used = {element.get("codeSystem") for element in etree.fromstring(document).iter(etree.Element)}
        return {oid for oid in used if oid is not None and oid not in self.dictionaries}
