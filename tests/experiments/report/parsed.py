"""What a browser would make of a page, without one."""

import html.parser
import pathlib


class Page(html.parser.HTMLParser):
    """What a browser would make of the page: tags, addresses, ids, headings, figures, text."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__()
        self.source = path.read_text()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.labels: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        if tag not in ("meta", "link", "img", "input", "wbr"):
            self.open.append(tag)
        self.addresses += [values[name] for name in ("src", "href", "data") if name in values]
        self.ids += [values["id"]] if "id" in values else []
        self.labels += [values["aria-label"]] if tag == "svg" and "aria-label" in values else []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if "style" not in self.open else ""
