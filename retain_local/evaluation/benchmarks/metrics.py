"""Metrics of the public benchmarks: of a reply and its references, from 0 to 1.

Those with settings are classes and no closures, since questions travel to other processes.
"""

from __future__ import annotations

import importlib
import re
import string
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from difflib import SequenceMatcher
from types import ModuleType

from ...errors import RetainError

_CHINESE_PUNCTUATION = "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏."


@dataclass(frozen=True)
class BestOf:
    """A metric against the reference that it likes best."""

    metric: Callable[[str, str], float]

    def __call__(self, reply: str, references: tuple[str, ...]) -> float:
        return max(self.metric(reply, reference) for reference in references)


# overlap of words


def f1(reply: str, reference: str) -> float:
    """F1 of the words, without case, punctuation and articles (SQuAD, arXiv 1606.05250)."""
    return _f1(_words(reply), _words(reference))


def f1_chinese(reply: str, reference: str) -> float:
    """F1 of the words that jieba finds, without punctuation."""
    return _f1(_chinese_words(reply), _chinese_words(reference))


def f1_characters(reply: str, reference: str) -> float:
    """F1 of the characters, without case, punctuation and blanks."""
    return _f1(list(_chinese(reply)), list(_chinese(reference)))


def rouge_l(reply: str, reference: str) -> float:
    """F of ROUGE-L (Lin, 2004), as the package rouge computes it."""
    rouge = require("rouge").Rouge(metrics=["rouge-l"])
    if not reply.replace(".", "").strip():
        return 0.0
    return rouge.get_scores(reply, reference)[0]["rouge-l"]["f"]


def rouge_l_chinese(reply: str, reference: str) -> float:
    """ROUGE-L over the words that jieba finds."""
    jieba = _jieba()
    return rouge_l(" ".join(jieba.cut(reply)), " ".join(jieba.cut(reference)))


def edit_similarity(reply: str, reference: str) -> float:
    """Ratio of matching characters, in hundredths, of the first line that is no comment and no fence."""
    lines = (line for line in reply.lstrip("\n").split("\n") if not any(mark in line for mark in ("`", "#", "//")))
    code = next(lines, "")
    return round(100 * SequenceMatcher(None, code, reference).ratio()) / 100 if code and reference else 0.0


# one right answer


def number_share(reply: str, reference: str) -> float:
    """Share of the numbers in the reply that are the reference's."""
    wanted = re.search(r"\d+", reference)
    numbers = re.findall(r"\d+", reply)
    return numbers.count(wanted[0]) / len(numbers) if wanted and numbers else 0.0


def contains(reply: str, reference: str) -> float:
    """Whether the reply holds the reference, to the letter."""
    return float(reference in reply)


def contains_any_case(reply: str, reference: str) -> float:
    """Whether the reply holds the reference, in any case."""
    return float(reference.lower() in reply.lower())


def contained_share(reply: str, references: tuple[str, ...]) -> float:
    """Share of the references that the reply holds, in any case."""
    return sum(contains_any_case(reply, reference) for reference in references) / len(references)


def first_number(reply: str, reference: str) -> float:
    """Whether the first number of the reply is the reference; of a whole number the digits before the point count."""
    match = re.search(r"\d+(?:\.\d+)?", reply)
    if match is None:
        return 0.0
    found = Decimal(match[0])  # a reply may go on in digits for ever, which a float does not hold
    return float((found if "." in reference else found.to_integral_value(ROUND_DOWN)) == Decimal(reference))


@dataclass(frozen=True)
class Classification:
    """Whether the reply names the right class; a reply that names several gets its share."""

    classes: tuple[str, ...]

    def __call__(self, reply: str, references: tuple[str, ...]) -> float:
        return max(self._score(reply, reference) for reference in references)

    def _score(self, reply: str, reference: str) -> float:
        named = [name for name in self.classes if name in reply and not (name in reference and name != reference)]
        return 1 / len(named) if reference in named else 0.0


@dataclass(frozen=True)
class FirstLine:
    """Another metric, of the reply's first line."""

    metric: Callable[[str, tuple[str, ...]], float]

    def __call__(self, reply: str, references: tuple[str, ...]) -> float:
        return self.metric(reply.lstrip("\n").split("\n")[0], references)


def _f1(reply: list[str], reference: list[str]) -> float:
    same = sum((Counter(reply) & Counter(reference)).values())
    return 2 * same / (len(reply) + len(reference)) if same else 0.0


def _words(text: str) -> list[str]:
    kept = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def _chinese(text: str) -> str:
    kept = (character for character in text.lower() if character not in string.punctuation + _CHINESE_PUNCTUATION)
    return "".join("".join(kept).split())


def _chinese_words(text: str) -> list[str]:
    return [word for word in map(_chinese, _jieba().cut(text)) if word]


def _jieba() -> ModuleType:
    jieba = require("jieba")
    jieba.setLogLevel("WARNING")
    return jieba


def require(package: str) -> ModuleType:
    """A package that only some metrics need.

    Raises
    ------
    RetainError : it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        raise RetainError(
            f"the metric of this benchmark needs the package {package}: pip install 'retain-local[benchmarks]'"
        ) from None
