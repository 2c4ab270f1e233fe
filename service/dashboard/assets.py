"""The files of the dashboard: those in `static`, and plotly.js from the installed plotly package.

Every file is read and compressed once and kept in memory. Its URL contains a version, so that browsers can cache it
without limit, and load new files after a change of the release.
"""

import gzip
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

STATIC = Path(__file__).with_name("static")
PAGE = "index.html"
ASSETS_URL = "/assets"
PLOTLY_URL = "/vendor/plotly-{version}.min.js"

MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class Asset:
    """The bytes of one file."""

    body: bytes
    media_type: str

    @cached_property
    def digest(self) -> str:
        """Part of the sha256 of the bytes, in hexadecimal."""
        return hashlib.sha256(self.body).hexdigest()[:16]

    @cached_property
    def compressed(self) -> bytes:
        """The bytes in gzip."""
        return gzip.compress(self.body, compresslevel=9, mtime=0)


class Assets:
    """All files, with their addresses. `plotly` is read at its first request, which most visits do not make."""

    def __init__(self, folder: Path = STATIC, root_path: str = "") -> None:
        self._root_path = root_path
        self.files = dict(_read(folder))
        names = "".join(f"{name}:{asset.digest};" for name, asset in sorted(self.files.items()))
        self.version = hashlib.sha256(names.encode()).hexdigest()[:12]
        self.plotly_url = PLOTLY_URL.format(version=version("plotly"))

    @cached_property
    def page(self) -> Asset:
        """The one HTML page, with the URLs of the files that it loads."""
        text = self.files[PAGE].body.decode()
        text = text.replace("{{assets}}", f"{{{{root}}}}{ASSETS_URL}/{self.version}")
        text = text.replace("{{plotly}}", f"{{{{root}}}}{self.plotly_url}").replace("{{root}}", self._root_path)
        return Asset(text.encode(), MEDIA_TYPES[".html"])

    @cached_property
    def plotly(self) -> Asset:
        """plotly.js. Raises `FileNotFoundError` if the plotly package does not contain it."""
        # plotly is not imported, because that would take time and memory for the sake of one path.
        spec = find_spec("plotly")
        assert spec is not None
        assert spec.submodule_search_locations is not None
        path = Path(spec.submodule_search_locations[0], "package_data", "plotly.min.js")
        return Asset(path.read_bytes(), MEDIA_TYPES[".js"])


def _read(folder: Path) -> Iterator[tuple[str, Asset]]:
    for path in folder.rglob("*"):
        if path.suffix in MEDIA_TYPES:
            yield path.relative_to(folder).as_posix(), Asset(path.read_bytes(), MEDIA_TYPES[path.suffix])
