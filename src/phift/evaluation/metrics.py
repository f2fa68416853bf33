"""What an answer is worth beside the right one: exact match, token F1 and chrF, of one row each."""

from __future__ import annotations

import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

from phift.errors import ConfigError, MissingDependency

if TYPE_CHECKING:
    from sacrebleu.metrics.chrf import CHRF


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A score of an answer beside the right one.

    - **score**: of an answer and the right one, in this order.
    - **higher_is_better**: as a share of right answers is, and a loss is not.
    - **most**: the largest difference that two scores of one row can have; None where there is none.
    """

    name: str
    score: Callable[[str, str], float] = field(repr=False)
    higher_is_better: bool = True
    most: float | None = 1.0


AnyMetric: TypeAlias = str | Metric


def exact_match(answer: str, reference: str) -> float:
    """Return 1 where two texts are the same, else 0; white space and ways to write one character do not count.

    Everything else does, unlike in SQuAD's exact match: ``Co`` is no ``CO``, and 3.14 is not 314.
    """
    return float(_plain(answer) == _plain(reference))


def token_f1(answer: str, reference: str) -> float:
    """Return the F1 of the words that two texts have in common, 0 to 1, as SQuAD's official script has it.

    That is, without case, punctuation, and the articles a, an and the; where one text has no words left, it is 1 if
    the other has none either. Beyond that script, punctuation is Unicode's and not ASCII's alone, and in writing
    without spaces each character is a word, as in MLQA's.

    Sources: Rajpurkar et al., ``evaluate-v2.0.py`` (rajpurkar.github.io/SQuAD-explorer, read 2026-11-30);
    ``mlqa_evaluation_v1.py`` (facebookresearch/MLQA, read 2026-11-30).
    """
    words, right = _words(answer), _words(reference)
    if not words or not right:
        return float(words == right)
    common = sum((Counter(words) & Counter(right)).values())
    return 2 * common / (len(words) + len(right))


def chrf(answer: str, reference: str) -> float:
    """Return chrF2 of one row, 0 to 1: sacrebleu's, with character n-grams up to 6 and no words.

    A mean over rows is not chrF of the whole text, which sacrebleu gives for a corpus.
    """
    return float(_chrf().sentence_score(answer, [reference]).score) / 100


@cache
def _chrf() -> CHRF:
    try:
        from sacrebleu.metrics.chrf import CHRF
    except ImportError as error:
        raise missing("sacrebleu") from error
    return CHRF()


def missing(package: str) -> MissingDependency:
    """Return the error for a package of the extra that is not installed."""
    what = f"Models are compared with {package}, which is not installed."
    return MissingDependency(what, fix="in the folder of phift's source: pip install '.[evaluate]'")


METRICS = {
    metric.name: metric
    for metric in (
        Metric(name="exact_match", score=exact_match),
        Metric(name="token_f1", score=token_f1),
        Metric(name="chrf", score=chrf),
    )
}


def find_metrics(wanted: Sequence[AnyMetric]) -> tuple[Metric, ...]:
    """Return the metrics of these names, and those that are given as such.

    Raises `phift.errors.ConfigError` for a name that none has, two of one name, or none at all, and
    `phift.errors.MissingDependency` for chrF without sacrebleu.
    """
    unknown = [each for each in wanted if isinstance(each, str) and each not in METRICS]
    if unknown or not wanted:
        what = f"There is no metric {', '.join(unknown)}." if unknown else "No metric is named."
        raise ConfigError(what, where="metrics", fix=f"use some of {', '.join(METRICS)}, or a Metric of your own")
    found = tuple(METRICS[each] if isinstance(each, str) else each for each in wanted)
    if len({each.name for each in found}) < len(found):
        raise ConfigError("Two metrics have one name.", where="metrics", fix="name each once")
    if METRICS["chrf"] in found:
        _chrf()
    return found


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


_ARTICLES = ("a", "an", "the")


def _words(text: str) -> list[str]:
    lowered = unicodedata.normalize("NFKC", text).casefold()
    return [word for word in "".join(_spaced(lowered)).split() if word not in _ARTICLES]


def _spaced(text: str) -> Iterable[str]:
    """Yield a text's characters without punctuation, with blanks around those that are words of their own."""
    for character in text:
        if character < "\x80":
            if character not in string.punctuation:
                yield character
        elif _is_alone(character):
            yield f" {character} "
        elif not unicodedata.category(character).startswith("P"):
            yield character


def _is_alone(character: str) -> bool:
    """Tell characters of writing without spaces: Chinese, Japanese, Thai, Lao, Burmese, Khmer; not their marks."""
    if unicodedata.category(character)[0] not in "L":
        return False
    return (
        "\u0e00" <= character <= "\u0eff"
        or "\u1000" <= character <= "\u109f"
        or ("\u1780" <= character <= "\u17ff" or "\u2e80" <= character <= "\u9fff" or character >= "\U00020000")
        or "\uf900" <= character <= "\ufaff"
    )
