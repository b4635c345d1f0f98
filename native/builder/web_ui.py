"""Upstream's own page of the server, built by npm from the sources that the source distribution holds.

<cache>/web-ui/sources/   its sources, and the packages that npm installs for them (600 MB, removed when it is built)
               dist/      the page
               build.log  what npm said
"""

import shutil

import upstream
from build import cache_directory, locked, make_cache
from console import BuildError, run_logged

SOURCES = "tools/ui/"


def build_web_ui():
    """The directory of the page, built unless it is there."""
    npm = shutil.which("npm")
    make_cache(cache_directory())
    root = cache_directory() / "web-ui"
    root.mkdir(exist_ok=True)
    dist, stamp, sources = root / "dist", root / "stamp", root / "sources"
    with locked(root / "lock"):
        if stamp.is_file() and stamp.read_text() == upstream.SHA256:
            return dist
        if not npm:
            raise BuildError("npm is needed to build llama.cpp's page; install Node.js, which brings it")
        local = upstream.local_directory()
        files = upstream.read_directory(local) if local else upstream.read_sdist(upstream.sdist(cache_directory()))
        for directory in (sources, dist):
            shutil.rmtree(directory, ignore_errors=True)
        for name, content in files.items():
            if name.startswith(SOURCES):
                path = sources / name.removeprefix(SOURCES)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        (root / "build.log").write_text("")
        # the versions are those of the lock file, with their checksums, and no package runs a script when it is installed
        for arguments, what in (
            (("ci", "--ignore-scripts", "--no-audit", "--no-fund"), "installing the packages of llama.cpp's page"),
            (("run", "build"), "building llama.cpp's page"),
        ):
            run_logged([npm, *arguments], what, root / "build.log", cwd=sources)
        (sources / "dist").rename(dist)
        shutil.rmtree(sources)
        stamp.write_text(upstream.SHA256)
    return dist
