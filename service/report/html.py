"""A report as one HTML file without scripts and external resources, which can also be printed."""

from html import escape

from service.report.document import Block, Bullets, DataTable, Document, Figure, Listing, Paragraph

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --faint: #60646c; --line: #d9d9e0; --paper: #fff; --shade: #f6f6f8 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #edeef0; --faint: #b0b4ba; --line: #43484e; --paper: #18191b; --shade: #212225 }
}
body { margin: 0 auto; max-width: 60rem; padding: 2.5rem 1.25rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 1.5rem } h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem }
th, td { padding: .35rem .75rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
thead th { color: var(--faint); font-weight: 600; border-bottom-width: 2px } .label { text-align: left }
pre { background: var(--shade); padding: 1rem; overflow-x: auto; font-size: .85rem; border-radius: .4rem }
figure { margin: 1rem 0 } figcaption { color: var(--faint); font-size: .9rem } svg { max-width: 100%; height: auto }
"""


def as_html(document: Document) -> str:
    """Render the document as HTML."""
    title = escape(document.title)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{as_fragment(document)}\n</main>\n</body>\n</html>\n"
    )


def as_fragment(document: Document) -> str:
    """Render the title and the sections, for a page that has a style of its own."""
    body = [f"<h1>{escape(document.title)}</h1>"]
    for section in document.sections:
        body.append(f"<h2>{escape(section.title)}</h2>")
        body += [_block(block) for block in section.blocks]
    return "\n".join(body)


def _block(block: Block) -> str:
    match block:
        case Paragraph(text):
            return f"<p>{escape(text)}</p>"
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"
        case DataTable(header, rows, labels):
            head = "".join(_cell("th", text, index < labels) for index, text in enumerate(header))
            body = "".join(
                "<tr>" + "".join(_cell("td", text, index < labels) for index, text in enumerate(row)) + "</tr>"
                for row in rows
            )
            table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            return f'<div class="scroll" tabindex="0">{table}</div>'
        case Figure(_, svg, description):
            return f"<figure>{svg}<figcaption>{escape(description)}</figcaption></figure>"
        case Listing(text):
            return f'<pre tabindex="0">{escape(text)}</pre>'


def _cell(tag: str, text: str, is_label: bool) -> str:
    return f"<{tag}{' class=label' if is_label else ''}>{escape(text)}</{tag}>"
