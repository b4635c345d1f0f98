"""What a caller gives to the sampler: grammars, and processors of logits, which the bindings call from native code.

An exception cannot pass through C. The bindings lose it, and go on as if there were no processor.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterable, Mapping
from ctypes import byref
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from . import llama_cpp, log
from .usage import Usage

# (tokens so far int32 [n_tokens], logits float32 [n_vocab]) -> logits [n_vocab]
Processor = Callable[[npt.NDArray[np.int32], npt.NDArray[np.float32]], npt.NDArray[np.float32]]

_DEEPEST, _MOST_RULES = 500, 5_000
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"|(?<!<)\[(?:\\.|[^\]\\])*\]|#[^\n]*')  # strings, characters, comments

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


def _check_survivable(grammar: str, n_vocab: int) -> None:
    """Raise UsageError for what ends the process inside llama.cpp: it recurses over groups and rules, unbounded."""
    if not grammar.isascii() and any("\ud800" <= character <= "\udfff" for character in grammar):
        raise UsageError("the grammar is not text: it has half of a surrogate pair")
    plain = _QUOTED.sub("", grammar)
    depth = deepest = 0
    for bracket in re.findall(r"[()]", plain):
        depth += 1 if bracket == "(" else -1
        deepest = max(deepest, depth)
    if deepest > _DEEPEST:
        raise UsageError(f"the grammar has groups in groups {deepest} deep; it may have {_DEEPEST}")
    if (n_rules := plain.count("::=")) > _MOST_RULES:
        raise UsageError(f"the grammar has {n_rules} rules; it may have {_MOST_RULES}")
    for token in re.findall(r"<\[\s*(\d+)", plain):
        if int(token) >= n_vocab:
            raise UsageError(f"the grammar names the token {token}; the model's tokens are 0 to {n_vocab - 1}")


class Grammar:
    """A grammar that llama.cpp has parsed, and how far a text has come in it.

    Parameters
    ----------
    vocab : the `llama_vocab *`.
    grammar : LlamaGrammar

    Raises
    ------
    UsageError : it is not valid. The bindings would hand llama.cpp's null pointer on.
    """

    def __init__(self, vocab: Any, grammar: Any) -> None:
        if not isinstance(getattr(grammar, "_grammar", None), str):
            raise UsageError(f"grammar must be a LlamaGrammar (LlamaGrammar.from_string), not {type(grammar).__name__}")
        text: str = grammar._grammar
        if not text.strip():
            raise UsageError("the grammar is empty")
        _check_survivable(text, llama_cpp.llama_vocab_n_tokens(vocab))
        log.forget_errors()
        self._sampler = llama_cpp.llama_sampler_init_grammar(vocab, text.encode(), grammar._root.encode())
        if not self._sampler:
            raise UsageError(f"the grammar is not valid: {log.first_error() or 'llama.cpp gave no reason'}")
        weakref.finalize(self, llama_cpp.llama_sampler_free, self._sampler).atexit = False

    def restrict(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits [n_vocab] in which those of all tokens that may not come next are -inf.

        Raises
        ------
        UsageError : the others have -inf already.
        """
        candidates = np.zeros(len(logits), _CANDIDATE)
        candidates["id"], candidates["logit"] = np.arange(len(logits)), logits
        pointer = candidates.ctypes.data_as(llama_cpp.llama_token_data_p)
        array = llama_cpp.llama_token_data_array(data=pointer, size=len(logits), selected=-1, sorted=False)
        llama_cpp.llama_sampler_apply(self._sampler, byref(array))
        if np.isneginf(candidates["logit"]).all():
            raise UsageError("logits processors and biases leave no token that the grammar allows")
        return candidates["logit"]

    def accept(self, token: int) -> None:
        """Take in a token that may come next."""
        llama_cpp.llama_sampler_accept(self._sampler, token)


class Processors:
    """The caller's processors of logits as one that never raises: `raise_error` does, when the sampler has returned.

    They get copies, which they may keep. A grammar is asked after them, since llama.cpp ends the process when a token is
    drawn that the grammar forbids, which is what is left when they forbid all others.

    Parameters
    ----------
    processors, usage : of the caller, and of the model.
    grammar : to be followed besides; None: none.
    """

    def __init__(self, processors: Iterable[Processor], usage: Usage, grammar: Grammar | None = None) -> None:
        if not isinstance(processors, Iterable):
            raise UsageError("logits_processor must be a list of functions: LogitsProcessorList([processor])")
        self._processors = list(processors)
        self._usage = usage
        self._grammar = grammar
        self._error: BaseException | None = None

    def __call__(self, tokens: npt.NDArray[np.int32], logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        try:
            with self._usage.callback():
                given, new = tokens.copy(), np.array(logits, np.float32)
                for processor in self._processors:
                    new = processor(given, new)
                new = np.asarray(new, np.float32)
                if new.shape != logits.shape:
                    raise UsageError(
                        f"a logits processor must return {len(logits)} logits; it returned shape {list(new.shape)}"
                    )
                return new if self._grammar is None else self._grammar.restrict(new)
        except BaseException as error:  # Ctrl-C among them
            self._error = self._error or error
            return logits

    def accept(self, token: int) -> None:
        """Take in the token that was drawn, or raise what a processor raised before it was."""
        error, self._error = self._error, None
        if error is not None:
            raise error
        if self._grammar is not None:
            self._grammar.accept(token)


def logit_bias_processor(bias: Mapping[Any, float], n_vocab: int) -> Processor:
    """A processor that adds to the logits of some tokens.

    Raises
    ------
    UsageError : a token is none of the model's.
    """
    added = np.zeros(n_vocab, np.float32)
    for token, value in bias.items():
        if not 0 <= int(token) < n_vocab:
            raise UsageError(f"logit_bias names the token {token}; the model's tokens are 0 to {n_vocab - 1}")
        added[int(token)] = value
    return lambda _tokens, logits: logits + added
