"""The site's pages from the repository's root, and links as GitHub reads them.

README.md and others stand at the root, where GitHub shows them; the site has them without a second
copy. Links are written for GitHub: those to pages of the site are rewritten, and those to other
files of the repository become plain text.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
AT_ROOT = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
"""Pages by the file at the root."""

_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages whose files stand at the root."""
    for source, page in AT_ROOT.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite the links of a page."""
    sources = {page: source for source, page in AT_ROOT.items()}
    name = page.file.src_uri
    return rewritten(markdown, sources.get(name) or f"docs/{name}")


def rewritten(text: str, source: str) -> str:
    """Return the text of a page with links for the site.

    Args:
        text: Markdown, outside of code blocks.
        source: Its file, from the root of the repository.

    Example:
        >>> rewritten("[a](docs/use.md#export), [b](Makefile)", "README.md")
        '[a](use.md#export), b'
    """
    folder = posixpath.dirname(source)

    def link(found: re.Match[str]) -> str:
        picture, title, path, anchor = found.groups()
        target = posixpath.normpath(posixpath.join(folder, path))
        if page := AT_ROOT.get(target):
            return f"[{title}]({page}{anchor or ''})"
        if target.startswith("docs/"):
            return f"{picture}[{title}]({target.removeprefix('docs/')}{anchor or ''})"
        if not (ROOT / target).exists():
            raise FileNotFoundError(f"{source} links to {path}, which is not there")
        return title

    return _LINK.sub(link, text)
