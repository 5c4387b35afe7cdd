"""What a validation found, as JSON and as Markdown."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from shardline.base.counts import counted, of_count
from shardline.networks.train_spec import Scores
from shardline.run.merged_model import MergedModel
from shardline.validation.champion import Champion
from shardline.validation.sharded_logits import Comparison

LOSS_FILE = "loss.png"


@dataclass(frozen=True)
class Report:
    """One validation: of which merged model, on which data, by which metric, with which result."""

    merged: MergedModel
    dataset_digest: str
    metric: str
    scores: Scores
    sharded_logits: Comparison | None
    higher_is_better: bool = True
    champion: Champion | None = None

    @property
    def failures(self) -> list[str]:
        """Why the model must not be promoted; empty where it may be."""
        failures = list(self.scores.failures)
        compared = self.sharded_logits
        if compared is not None and not compared.equal:
            failures.append(_unequal(compared))
        return failures

    def to_json(self) -> str:
        """`report.json`, without times or folders: the same model on the same data gives the same bytes."""
        document = {
            "passed": not self.failures,
            "failures": self.failures,
            "metric": self.metric,
            self.metric: self.scores.value,
            "higher_is_better": self.higher_is_better,
            "champion": asdict(self.champion) if self.champion else None,
            "loss": self.scores.loss,
            "merged": asdict(self.merged) | {"file": self.merged.file.name},
            "dataset_digest": self.dataset_digest,
            "sharded_logits": asdict(self.sharded_logits) if self.sharded_logits else None,
            **self.scores.to_document(),
        }
        return json.dumps(document, indent=2, allow_nan=False) + "\n"

    def to_markdown(self) -> str:
        """`report.md`, which the task's log shows as well."""
        lines = [
            f"# Validation {'failed' if self.failures else 'passed'}",
            "",
            *(f"- **{failure}**" for failure in self.failures),
            f"- Loss: {self.scores.loss:.4f} (mean cross entropy, nats)",
            f"- Model: `{self.merged.file.name}`, step {self.merged.step}, BLAKE3 `{self.merged.digest}`",
            f"- Merged against sharded: {self._comparison()}",
            *self._against_champion(),
            *self.scores.to_markdown(),
            "",
            f"![Loss]({LOSS_FILE})",
        ]
        return "\n".join(lines) + "\n"

    def _against_champion(self) -> list[str]:
        if self.champion is None:
            return []
        return [
            f"- Against the current version, {self.champion.version}: {self.metric} {self.scores.value:.4f}, its own "
            f"on the same data {self.champion.value:.4f}"
        ]

    def _comparison(self) -> str:
        compared = self.sharded_logits
        if compared is None:
            return "not compared, since an earlier step than the last was merged"
        return (
            f"the logits of {counted(compared.samples, 'sample')} differ by {compared.relative_difference:.2e} of the "
            f"greatest (at most {compared.tolerance:.2g}); {compared.decisions_changed} of "
            f"{counted(compared.decisions, 'decision')} "
            f"{of_count(compared.decisions_changed, 'is another', 'are others')}, "
            f"{compared.decisions_changed_clearly} clearly so; losses {compared.ranks_loss:.6f} and "
            f"{compared.merged_loss:.6f}"
        )


def _unequal(compared: Comparison) -> str:
    """What is wrong, and what to do: of other weights than the ranks' there are other decisions, rounding has none."""
    found = (
        f"expected logits that differ by at most {compared.tolerance:.2g} of the greatest, found "
        f"{compared.relative_difference:.2e}"
    )
    if compared.decides_alike:
        return (
            f"the merged model computes nearly what the ranks computed: {found}. Every clear decision and the loss are "
            "the same, which rounding explains: if the network amplifies that, set logits_tolerance above the "
            "difference and clear validate; if not, clear merge"
        )
    return (
        f"the merged model does not compute what the ranks computed: {found}; {compared.decisions_changed_clearly} of "
        f"{counted(compared.decisions, 'decision')} clearly "
        f"{of_count(compared.decisions_changed_clearly, 'differs', 'differ')}, and the loss is "
        f"{compared.merged_loss:.6g} instead of "
        f"{compared.ranks_loss:.6g}. That is more than rounding: clear merge, or train if that does not help"
    )
