"""What a page shows of recall: counts of an archive, from step to step."""

from __future__ import annotations

import numpy as np

from retain_local.report.recall_pictures import recall_picture
from retain_local.report.recalls import MOST_NAMED, RecallRecorder
from retain_local.retention.stats import ArchivedCells


class Archive:
    """Stands for a `Retention` of one list per layer, with the counts that it is given."""

    layers = (0, 1)

    def __init__(self) -> None:
        self.counts: dict[int, dict[int, int]] = {0: {}, 1: {}}

    def heads(self, layer: int) -> int:
        return 1

    def archived(self, layer: int, head: int) -> ArchivedCells:
        counts = self.counts[layer]
        ordinals = np.array(list(counts), np.int32)
        n = np.array(list(counts.values()), np.uint32)
        return ArchivedCells(ordinals, ordinals, np.zeros(len(n), np.float32), n)


def test_a_step_is_what_the_counts_grew_by() -> None:
    archive = Archive()
    recorder = RecallRecorder(archive, 10)
    archive.counts = {0: {0: 3, 1: 1}, 1: {}}
    recorder.note(0, 4)
    archive.counts = {0: {0: 3, 1: 2}, 1: {2: 5}}
    recorder.note(4, 8)
    archive.counts = {0: {1: 1}, 1: {2: 6}}  # a full archive let cell 0 go, and the counts of its list began anew
    recorder.note(8, 10)
    found = recorder.recalls()
    assert [(step.start, step.stop, step.named) for step in found.steps] == [
        (0, 4, [(0, 3), (1, 1)]), (4, 8, [(2, 5), (1, 1)]), (8, 10, [(1, 1), (2, 1)]),
    ]  # fmt: skip
    assert found.by_token.tolist() == [3, 3, 6, 0, 0, 0, 0, 0, 0, 0]
    assert found.data()["steps"][1] == [4, 8, [(2, 5), (1, 1)]]
    picture = recall_picture(found, "kept")
    (mesh,) = (one for one in picture.figure.axes[0].collections if one.get_array() is not None)
    # 3 recalled cells of token 0, of two lists, for the four tokens of the first step
    assert mesh.get_array()[0, 0] == 100 * 3 / 8 and mesh.get_array().shape == (10, 3)


def test_of_many_the_most_recalled_are_named() -> None:
    archive = Archive()
    recorder = RecallRecorder(archive, 1000)
    archive.counts[0] = {token: 1 + (token == 700) for token in range(900)}
    recorder.note(0, 1000)
    (step,) = recorder.recalls().steps
    assert len(step.named) == MOST_NAMED and step.named[0] == (700, 2) and step.buckets.sum() == 901
