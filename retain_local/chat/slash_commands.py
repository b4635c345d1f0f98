"""The slash commands of `chat`."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from ..errors import RetainError
from ..files import check_writable
from ..kv_types import kv_type
from ..terminal.byte_format import format_bytes
from .cache_map import render_cache_map
from .context_size import change_context, goes_beyond_training
from .sequence_state import lacks_archive
from .session_file import check_session
from .stats import stats_rows

if TYPE_CHECKING:
    from .ui import ChatUI


class ExitChat(Exception):
    """The user asked to leave."""


@dataclass(frozen=True)
class Command:
    """A command: what to type, what it does, and the function that does it with what follows its name."""

    usage: str
    help: str
    run: Callable[[ChatUI, str], None]
    aliases: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.usage.split()[0]

    @property
    def takes_file(self) -> bool:
        return self.usage.endswith("FILE")


def run_command(ui: ChatUI, line: str) -> None:
    """Run a line that begins with a slash.

    Raises
    ------
    ExitChat : the line asks to leave.
    RetainError : there is no such command, or it cannot be done.
    """
    name, *argument = line.split(maxsplit=1)
    command = _BY_NAME.get(name)
    if command is None:
        near = difflib.get_close_matches(name, _BY_NAME, n=1)
        meant = f"did you mean {_BY_NAME[near[0]].name}?" if near else "/help lists them."
        raise RetainError(f"there is no command {name}; {meant} A space before the slash sends the line as a message.")
    command.run(ui, argument[0] if argument else "")


def _help(ui: ChatUI, argument: str) -> None:
    table = Table.grid(padding=(0, 2))
    for command in COMMANDS:
        table.add_row(", ".join([command.usage, *command.aliases]), command.help)
    table.add_section()
    for keys, meaning in _KEYS:
        table.add_row(keys, meaning)
    ui.show(table)


def _system(ui: ChatUI, argument: str) -> None:
    if argument:
        if ui.may_drop_conversation():
            ui.restart(argument)
            ui.note("new system message; the conversation begins anew")
    else:
        ui.note(ui.session.system or "there is no system message; /system TEXT sets one")


def _budget(ui: ChatUI, argument: str) -> None:
    llm = ui.session.llm
    if argument:
        type_k, type_v = (kv_type(number) for number in (llm.context_params.type_k, llm.context_params.type_v))
        asked = replace(llm.options, budget=argument)  # a size covers the room for a ubatch as it was made
        budget = asked.resolve(llm.model_file, n_ctx=llm.n_ctx(), type_k=type_k, type_v=type_v).budget
        assert isinstance(budget, int) and isinstance(llm.options.budget, int)  # resolved
        if budget > llm.options.budget or (budget < llm.n_ctx() and lacks_archive(llm)):
            change_context(llm, budget=budget)
        else:
            llm.retention.set_budget(budget)
    ui.note(f"budget: {llm.retention.budget:,} cells for each (layer, KV head)")


def _ctx(ui: ChatUI, argument: str) -> None:
    llm = ui.session.llm
    n_train = llm.model_file.n_ctx_train
    if argument:
        if not argument.isdecimal():
            raise RetainError(f"{argument!r} is no number of tokens, as in /ctx {2 * llm.n_ctx()}")
        n_ctx = int(argument) or n_train
        goes_beyond = goes_beyond_training(llm, n_ctx)
        change_context(llm, n_ctx=n_ctx)
        if goes_beyond:
            ui.warn(f"the model was trained for {n_train:,} tokens; expect worse text beyond")
    ui.note(f"context: {llm.n_tokens:,} of {llm.n_ctx():,} tokens; the model was trained for {n_train:,}")


def _image(ui: ChatUI, argument: str) -> None:
    path = _file_name(argument, "/image")
    image = ui.session.attach(path)
    n = sum(picture.n_tokens for picture in image.pictures)
    tiles = f" in {len(image.pictures)} tiles" if len(image.pictures) > 1 else ""
    ui.note(f"{path}: {n:,} tokens{tiles}, with the next message")


def _stats(ui: ChatUI, argument: str) -> None:
    retention = ui.session.llm.retention
    table = Table.grid(padding=(0, 2))
    for label, value in stats_rows(retention.stats(), retention.policy):
        table.add_row(label, value)
    ui.show(table)


def _cache(ui: ChatUI, argument: str) -> None:
    llm = ui.session.llm
    pictures = [(one.start, one.stop) for one in llm.layout.placed]
    ui.show(render_cache_map(llm.retention, ui.out.width, ui.out.height, pictures))


def _save(ui: ChatUI, argument: str) -> None:
    path = _file_name(argument, "/save")
    check_writable(path)
    if path.exists() and path != ui.saved_as and not ui.input.confirm(f"{path} is there already. Replace it?"):
        return
    size = ui.session.save(path)
    ui.is_saved_as(path)
    ui.note(f"saved {path} ({format_bytes(size)})")


def _load(ui: ChatUI, argument: str) -> None:
    path = _file_name(argument, "/load")
    check_session(path)  # before anybody is asked to drop a conversation for it
    if not ui.may_drop_conversation():
        return
    remark = ui.session.load(path)
    ui.is_saved_as(path)
    budget = ui.session.llm.retention.budget
    counts = f"{len(ui.session.messages)} messages, {len(ui.session.tokens):,} tokens"
    ui.note(f"loaded {path}: {counts}, budget {budget:,}")
    if remark:
        ui.warn(remark)


def _file_name(argument: str, command: str) -> Path:
    """The file that was named: quotation marks around it and backslashes in it are those of a shell, ~ is the home folder."""
    if not argument:
        raise RetainError(f"name a file: {command} FILE")
    try:
        words = shlex.split(argument)
    except ValueError:  # a quotation mark that is part of the name
        words = []
    # more than one word is a name with spaces
    name = words[0] if len(words) == 1 else argument
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise RetainError(f"{name} names the home folder of a user that is not known here") from None


def _clear(ui: ChatUI, argument: str) -> None:
    ui.restart(ui.session.system)
    ui.note("the conversation begins anew")


def _regen(ui: ChatUI, argument: str) -> None:
    ui.reply(ui.session.regenerate())


def _exit(ui: ChatUI, argument: str) -> None:
    raise ExitChat


COMMANDS = (
    Command("/help", "list the commands and keys", _help, ("/?",)),
    Command("/system [TEXT]", "show the system message, or set it and begin anew", _system),
    Command("/budget [N]", "show the budget, or change it: cells, 1/4, 25%, 512MiB or auto", _budget),
    Command("/ctx [N]", "show the context, or change its length in tokens; the conversation goes on", _ctx),
    Command("/stats", "show what the cache holds, and how long evictions took", _stats),
    Command("/cache", "draw which cells are kept, by layer, head and place in the text", _cache),
    Command("/image FILE", "show the model a picture with the next message", _image),
    Command("/save FILE", "write the conversation and its cache to a file", _save),
    Command("/load FILE", "go on with a saved conversation", _load),
    Command("/clear", "begin anew with the same system message", _clear),
    Command("/regen", "write the last reply again", _regen),
    Command("/exit", "leave", _exit, ("/quit", "/bye")),
)
_BY_NAME = {name: command for command in COMMANDS for name in (command.name, *command.aliases)}
_KEYS = (
    ("Alt+Enter, \\", "a new line; the backslash at the end of a line"),
    ('"""', "begins and ends a message of several lines"),
    ("a space and /", "a message that begins with a slash"),
    ("Ctrl-C", "stop a reply, or drop what was typed"),
    ("Ctrl-Z", "back to the shell; fg returns"),
    ("Ctrl-D", "leave"),
)
