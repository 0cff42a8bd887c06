"""A raw radiology report -> its sections.

A header stands at the beginning of a line, up to its colon, dash or the end of the line, in any letters, bold, underlined or numbered; with a
colon or a dash behind a sentence ("Conclusion - Normal study."); in capitals with a colon anywhere in a line, since line breaks are lost in
tables; or in capitals with neither, before a word that begins a sentence ("IMPRESSION Normal brain."). Which words are headers is data
(configs/language). In ordinary letters a header at the beginning of a line may be a word of a sentence that was wrapped: it is one behind a
line that goes on ("without / contrast"), at the end of its paragraph ("no acute / findings"), and before such words as "of" and "are".
"""

from __future__ import annotations

import re
from functools import lru_cache

from hlip.reports.language import Language, english
from hlip.reports.text.wrapping import leads_on

_TAG = re.compile(
    r"</?(?:b|strong|i|em|u|s|a|font|span|small|big|sub|sup|code|center|td|th|tbody|thead|meta|link|style|o:p)(?:\s[^<>]*)?/?>|<!--[^<>]*>",
    re.IGNORECASE,
)
_BREAK = re.compile(
    r"</?(?:br|p|div|h[1-6]|li|ul|ol|dl|dt|dd|tr|table|html|head|body|title|pre|hr|blockquote)(?:\s[^<>]*)?/?>|<!doctype[^<>]*>|\\\.br\\",
    re.IGNORECASE,
)
_COMMON = frozenset({"examination", "technique"})  # kinds whose headers are words of findings too: "post CONTRAST Axial images"
_SHOUTED = re.compile(r"(?:^|[.!?] ?)[A-Z\u00c0-\u00d6\u00d8-\u00de/& -]*$")  # from the beginning of a sentence on


def sections(report: str, language: Language | None = None) -> dict[str, str]:
    """Section name (lower case, "" before the first header) -> text, in order; a repeated header continues its section."""
    own_line, behind, within, bare = _patterns(language or english())
    text = behind.sub(lambda match: f"\n{match['name'] or match['dashed']}: ", _normal(report))
    text = within.sub(lambda match: f"\n{match['name']}: " if match["name"] and _parts(match) else match[0], text)
    text = bare.sub(lambda match: f"\n{name}: " if (name := match["first"] or match["name"]) else match[0], text)
    found: dict[str, str] = {}
    name, start = "", 0
    headers = [match for match in own_line.finditer(text) if _stands_alone(match, language or english())]
    for match in [*headers, None]:
        part = text[start : match.start() if match else len(text)].strip()
        if part:
            found[name] = f"{found[name]}\n{part}" if name in found else part
        if match:
            name, start = re.sub(r"\s+", " ", match["name"]).lower(), match.end()
    return found


@lru_cache(maxsize=16)
def _patterns(language: Language) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """Headers at the beginning of a line, those behind a sentence, those in capitals anywhere else, and those in capitals without a mark."""
    spelled = _names(language)
    capitals = "|".join(map(str.upper, spelled))
    lead = r"^(?:[*#_=>\[ \u2022]|\(?\d{1,2}[.)]|[IVX]{1,4}\.){0,12}"
    mark = r" ?[\])]? ?[*_=]{0,6} ?"
    # FINDINGS (MRI of the brain): ADDENDUM #1 (3/4/2020): Impression (final)
    remark = r"(?:(?: #?\d[\d/.: -]{0,20})?(?: ?\([^()\n]{1,60}\))?(?=[*_ ]{0,6}:)| ?\([^()\n]{1,60}\)(?=[*_ ]{0,6}$))?"
    begins = r"(?=(?-i:[A-Z\u00c0-\u00d6\u00d8-\u00de\d]))"
    ends = rf"(?P<mark>:)(?: ?-{{1,3}}(?= |$))?[ *_]*|$|(?P<dash> [-\u2013\u2014]{{1,3}})(?: |$|{begins})"
    ends += rf"|(?<! )(?P<glued>-(?: ?$| {begins})|[\u2013\u2014] ?(?:$|{begins}))"
    own = rf"{lead}(?P<name>{_joined('|'.join(spelled))})(?![^\W_]){remark}{mark}(?:{ends})"
    titles = _joined("|".join([capitals, *spelled, *map(_title, spelled)]))
    rare = [name for name in spelled if not set(language.kind_of(name)) & _COMMON]
    rare_capitals = "|".join(map(str.upper, rare)) or "(?!)"
    dashed = _joined("|".join([rare_capitals, *map(_title, rare)]))
    sentence = r"(?<=[.!?])(?<!^\d\.)(?<!^\d\d\.) [*_]{0,6}"
    behind = rf"{sentence}(?:(?P<name>{titles}) ?[*_]{{0,6}}:[ *_]*|(?P<dashed>{dashed}) [-\u2013\u2014] )"
    longer = "|".join(map(str.upper, _escaped(list(language.labels.get("longer", ()))))) or "(?!)"
    within = rf"(?<=\S) [*_]{{0,6}}(?:(?:{longer})|(?P<name>{_joined(capitals)})) ?[*_]{{0,6}}:[ *_]*"
    begun = r"(?:[A-Z\u00c4\u00d6\u00dc][a-z\u00df-\u00ff]+[ ,.]|1[.)] ?[A-Z])"
    within_bare = rf"(?<=[a-z\u00df-\u00ff\d.!?)]) (?:(?:{longer})|(?P<name>{_joined(rare_capitals)}))"
    bare = rf"(?:^ ?(?P<first>{_joined(capitals)})|{within_bare}) (?={begun})"
    return (
        re.compile(own, re.IGNORECASE | re.MULTILINE),
        re.compile(behind, re.MULTILINE),
        re.compile(within),
        re.compile(bare, re.MULTILINE),
    )


def _stands_alone(header: re.Match[str], language: Language) -> bool:
    """Whether a header at the beginning of a line is no word of a sentence that was wrapped."""
    name, text = header["name"], header.string
    if header["glued"]:  # not "contrast-enhanced", nor a word parted at the line's end
        follows = text[header.end() : header.end() + 40].strip(" \n")
        return name[0].isupper() and not set(language.kind_of(name)) & _COMMON and not follows[:1].islower()
    if name.isupper():
        return True
    below = re.match(r"\n *([^\W\d_]*)", text[header.end() : header.end() + 40]) if not header["mark"] else None
    if below and below[1] and below[1].islower() and below[1] in language.labels.get("sentence", ()):
        return False
    above = text[max(0, header.start() - 80) : max(0, header.start() - 1)].rsplit("\n", 1)[-1].strip()
    if not above or above[-1] in ".!?:;" or not (name[0].islower() or language.capital_nouns):
        return True
    ends_paragraph = header.end() == len(text) or text.startswith(("\n\n", "\n \n"), header.end())
    return not (leads_on(above, language) or (ends_paragraph and not header["mark"] and not header["dash"]))


def _names(language: Language) -> list[str]:
    """All headers, the longest first."""
    return _escaped(sorted((name for kind in language.headers.values() for name in kind), key=len, reverse=True)) or ["(?!)"]


def _joined(names: str) -> str:
    """One name, or two with a mark between them: CONCLUSIONS/RECOMMENDATIONS."""
    return rf"(?:{names})[sS]?(?: ?[/&+] ?(?:{names})[sS]?)?"


def _parts(header: re.Match[str]) -> bool:
    """Whether a header in capitals stands behind words of another section, and is not the end of a longer one: OTHER FINDINGS."""
    line = header.string[max(0, header.start() - 80) : header.start()].rsplit("\n", 1)[-1]
    return bool(re.search(r"[^\W\d_]", line)) and not _SHOUTED.search(line)


def _escaped(names: list[str]) -> list[str]:
    return [re.escape(name).replace("\\ ", " ") for name in names]


def _title(name: str) -> str:
    return name[:1].upper() + name[1:]


def without_tags(text: str, line_break: str = "\n") -> str:
    """A text without the tags of HTML and with the line breaks of HL7, `\\.br\\`, as such; other words in angle brackets stay."""
    return _TAG.sub("", _BREAK.sub(line_break, text)) if "<" in text or "\\." in text else text


def _normal(report: str) -> str:
    """Line ends of one kind, single spaces (patterns that meet long runs of them would take long), no marks of HTML or HL7."""
    text = re.sub(r"[ \t\u00a0]+", " ", report).replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff")
    return without_tags(text)
