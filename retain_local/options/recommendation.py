"""The budget that an audit recommended, kept in the user's data folder for `--budget auto`.

One JSON file for each model, policy, scope and set of gates. It holds cells and no share of a text: a cache is made
before anyone knows how long the text will be, and what a token needs of it depends on the text behind it, far more than
on how much text there is in all.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RetainError
from ..files import private_folder, write_text
from ..models.model_file import ModelFile, file_fingerprint
from ..paths import data_dir
from .archive import share_text

if TYPE_CHECKING:
    from .retention_options import RetentionOptions

logger = logging.getLogger("retain_local")


@dataclass(frozen=True)
class Recommendation:
    """What an audit recommended, and what it found there.

    cells : the budget; budget : as it was asked for, as "1/4".
    bound : in words.
    kl_mean, agreement : over all texts.
    texts, longest : how many files, and the tokens of the longest text.
    settings : see `retention_options.settings_of`.
    model : name of the file.
    """

    cells: int
    budget: str
    bound: str
    kl_mean: float
    agreement: float
    texts: int
    longest: int
    settings: dict[str, int | str]
    model: str


@dataclass(frozen=True)
class Shelf:
    """Where the recommendation for one model, policy, scope, set of gates and share of recalled cells lies."""

    path: Path

    @classmethod
    def of(cls, model: ModelFile, options: RetentionOptions) -> Shelf:
        """For a model and options whose policy and gates are resolved.

        Raises
        ------
        RetainError : the data folder cannot be made, or the gates cannot be read.
        """
        gates = "none"
        if options.policy == "gate":
            assert options.gates is not None
            gates = file_fingerprint(options.gates)
        recall = (f"recall {share_text(options.recall_share)}",) if options.recall_share else ()
        parts = (model.fingerprint(), gates, options.policy, options.scope, *recall)
        name = hashlib.sha256("|".join(parts).encode()).hexdigest()[:32]
        return cls(data_dir() / "recommendations" / f"{name}.json")

    def find(self) -> Recommendation | None:
        """The recommendation; None when there is none.

        Raises
        ------
        RetainError : the file cannot be read, or is damaged.
        """
        try:
            found = json.loads(self.path.read_bytes())
            return Recommendation(**_checked(found))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RetainError(f"{self.path} cannot be read: {error.strerror or error}") from None
        except (TypeError, ValueError, RecursionError):
            raise RetainError(f"{self.path} is damaged; run `retain-local audit` again") from None

    def put(self, recommendation: Recommendation) -> None:
        """Keep a recommendation in place of an earlier one.

        Raises
        ------
        RetainError : it cannot be written.
        """
        private_folder(self.path.parent)
        write_text(self.path, json.dumps(asdict(recommendation), indent=1))

    def clear(self) -> bool:
        """Take an earlier recommendation back; whether there was one.

        Raises
        ------
        RetainError : it cannot be removed.
        """
        try:
            self.path.unlink()
            return True
        except FileNotFoundError:
            return False
        except OSError as error:
            raise RetainError(f"the earlier recommendation cannot be taken back: {error}") from None


def recommended_budget(
    model: ModelFile, options: RetentionOptions, *, n_ctx: int, settings: dict[str, int | str]
) -> int:
    """The budget of a model's last audit, in cells; no more than the context can fill. Says in one line where it is from.

    Parameters
    ----------
    options : with policy and gates resolved.
    settings : what the cache is to have, from `retention_options.settings_of`.

    Raises
    ------
    RetainError : there is none, or it cannot be read.
    """
    found = Shelf.of(model, options).find()
    if found is None:
        raise RetainError(
            f"no audit has recommended a budget for {model.path} with the policy '{options.policy}' and the scope"
            f" '{options.scope}'{_recalling(options)}: run `retain-local audit {model.path} --text FILE` with them, or name a budget"
        )
    differs = [f"{name} {value}" for name, value in found.settings.items() if settings.get(name) != value]
    logger.info(
        "budget %s, as an audit recommended for %s: mean KL %.3g, agreement %.1f%% on texts of up to %s tokens%s",
        f"{min(found.cells, n_ctx):,}",
        found.bound,
        found.kl_mean,
        100 * found.agreement,
        f"{found.longest:,}",
        f"; measured with {', '.join(differs)}" if differs else "",
    )
    return min(found.cells, n_ctx)


def _recalling(options: RetentionOptions) -> str:
    return f" and {share_text(options.recall_share)} recall" if options.recall_share else ""


def _checked(found: Any) -> dict[str, Any]:
    """Contents of a file whose cells are a budget."""
    if not isinstance(found, dict) or set(found) != {field.name for field in fields(Recommendation)}:
        raise ValueError
    cells, settings = found["cells"], found["settings"]
    if not isinstance(cells, int) or not 1 <= cells < 2**31 or not isinstance(settings, dict):
        raise ValueError
    if not all(type(found[name]) in (int, float) for name in ("kl_mean", "agreement", "texts", "longest")):
        raise ValueError
    return found
