"""The options of the server that are declared here; llama.cpp's own are passed on."""

from __future__ import annotations

from dataclasses import dataclass

from ..options.table import check, option

_SERVER = "Server"


@dataclass(frozen=True)
class ServeOptions:
    """Where the server listens, and for how many conversations; each field's `Option` says what it is."""

    host: str = option("127.0.0.1", "The address to listen on.", _SERVER, str)
    port: int = option(8080, "The port to listen on; 0 takes a free one.", _SERVER, int, most=2**16 - 1)
    api_key: str = option("", "The key that every request has to bring.", _SERVER, str)
    parallel: int = option(
        4,
        "How many conversations are computed at once (slots).",
        _SERVER,
        int,
        least=1,
        most=64,
    )
    ctx_size: int = option(
        0,
        "The longest conversation in tokens; 0 is what the model was trained for.",
        _SERVER,
        int,
        most=2**31 - 1,
    )

    def __post_init__(self) -> None:
        check(self)
