"""What is learned from mail without labels, and what is not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the [train] extra")
pytest.importorskip("sklearn", reason="needs the [train] extra")

import torch

from mailtagger.errors import MailtaggerError
from mailtagger.ulmfit import unlabelled
from mailtagger.ulmfit.model import Classifier, Dropouts, Sizes
from mailtagger.ulmfit.run import Schedule
from mailtagger.ulmfit.unlabelled import Labelled, fit, halves, ramp
from training import consistency, labels, smoke
from training.consistency import material
from training.splits import Split, split

pytestmark = pytest.mark.train


@pytest.fixture
def rows() -> Split:
    """Made-up mail, split as Enron is."""
    return split("dedup", smoke.rows())


def model(dropout: float = 1) -> Classifier:
    torch.manual_seed(0)
    made = Classifier(Sizes(50, 8, 12), Dropouts().scaled(dropout))
    made.head.rates = [dropout * rate for rate in made.head.rates]
    return made


def mails(count: int, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(4, 50, int(rng.integers(5, 40))).tolist() for _ in range(count)]


def test_the_target_is_not_taught() -> None:
    """The weak view says what is to be said; only the strong one learns, and towards it."""
    weak = torch.tensor([4.0, -4.0], requires_grad=True)
    strong = torch.zeros(2, requires_grad=True)
    unlabelled.consistency(weak, strong)[0].backward()
    assert weak.grad is None
    assert strong.grad is not None and strong.grad[0] < 0 < strong.grad[1]


def test_what_was_not_sure_is_no_target() -> None:
    """P of .8, or of .2, is the least that another view is told of."""
    weak = torch.logit(torch.tensor([0.79, 0.21, 0.81, 0.19]))
    strong = torch.zeros(4, requires_grad=True)
    loss, sure = unlabelled.consistency(weak, strong)
    loss.backward()
    assert sure == 0.5
    assert strong.grad is not None and (strong.grad != 0).tolist() == [False, False, True, True]


def test_at_first_it_counts_nothing() -> None:
    """The head's first guesses are no targets; later the loss counts in full, and never falls."""
    assert ramp(0) == 0
    assert ramp(unlabelled.RAMP) == ramp(1) == 1
    steps = [ramp(share) for share in np.linspace(0, 1, 50)]
    assert steps == sorted(steps)


def test_unlabelled_mail_that_counts_nothing_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the ramp is at 0, the weights learn from the very same batches to the very same values as without."""
    monkeypatch.setattr(unlabelled, "ramp", lambda share: 0.0)
    known, found = Labelled(mails(30, 0), [0.0, 1.0] * 15), []
    for unknown in ([], mails(30, 1)):
        trained = model(dropout=0)
        fit(trained, known, Schedule(600, 1, 5e-3), None, unknown)
        found.append([p.detach() for p in trained.parameters()])
    assert all(torch.equal(plain, beside) for plain, beside in zip(*found, strict=True))


def test_unlabelled_mail_that_counts_teaches(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a ramp at 1, and targets that need not be sure, it makes other weights."""
    monkeypatch.setattr(unlabelled, "SURE", 0.5)
    known, found = Labelled(mails(30, 0), [0.0, 1.0] * 15), []
    for counts in (0.0, 1.0):
        monkeypatch.setattr(unlabelled, "ramp", lambda share, counts=counts: counts)
        trained = model(dropout=0)
        fit(trained, known, Schedule(600, 1, 5e-3), None, mails(30, 1))
        found.append(trained.encoder.lstm[0].weight_hh.detach())
    assert not torch.allclose(*found)


def test_as_much_is_read_with_labels_whatever_stands_beside() -> None:
    """The arms have equal budgets: the same batches with labels, and as many mails without."""
    known = Labelled(mails(30, 0), [0.0, 1.0] * 15)
    plain, beside = (
        fit(model(), known, Schedule(600, 2, 5e-3)),
        fit(model(), known, Schedule(600, 2, 5e-3), None, mails(90, 1)),
    )
    assert 60 <= plain.labelled <= 60 + 4 * 30 and plain.unlabelled == 0
    assert beside.unlabelled == beside.labelled


def test_test_mail_is_not_read(rows: Split) -> None:
    """Neither with labels nor without is there a mail of the test, or a near-duplicate of one."""
    found = material(rows, 40, 0)
    test, training = {row.document.text for row in rows.test}, {row.document.text for row in rows.train}
    texts = [row.document.text for row in found.labelled] + found.unlabelled
    assert texts and not test & set(texts) and set(texts) <= training
    assert not {row.group for row in found.labelled} & {row.group for row in rows.test}


def test_withheld_labels_are_not_there(rows: Split) -> None:
    """What is read without labels is text alone, none of it a near-duplicate of what has its label."""
    double = replace(rows.train[0], document=replace(rows.train[0].document, key="double", text="the same once more"))
    found = material(replace(rows, train=(*rows.train, double)), 40, 0)
    assert all(type(one) is str for one in found.unlabelled)
    assert len(found.labelled) + len(found.unlabelled) == len({row.group for row in rows.train})
    known = {row.group for row in found.labelled}
    own = {row.document.text for row in (*rows.train, double) if row.group in known}
    assert not own & set(found.unlabelled)


def test_wrong_labels_are_not_learned(rows: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that is known to be labelled wrong is never among those with labels; without, it is mail as any other."""
    bad = frozenset(row.document.key for row in rows.train[:10])
    monkeypatch.setattr(labels, "wrong", lambda: bad)
    assert labels.wrong() == bad
    found = material(rows, 100, 0)
    assert not {row.document.key for row in found.labelled} & bad
    assert {row.document.text for row in rows.train[:10]} <= set(found.unlabelled)


def test_halves() -> None:
    """A pair is a first half with a second one: its own where the label says so, else another mail's."""
    documents = [[i] * 10 for i in range(4, 44)]
    pairs = halves(documents, 40, 0)
    assert [float(one[0] == one[-1]) for one in pairs.documents] == list(pairs.labels)
    assert all(len(one) == 10 for one in pairs.documents)
    assert 10 < sum(pairs.labels) < 30


def test_one_mail_alone() -> None:
    """Batch norm needs two rows; nothing waits for a second for ever."""
    two, one = mails(2, 0), mails(1, 1)
    for known, beside in ((one, two), (two, one)):
        with pytest.raises(MailtaggerError, match="One mail alone"):
            fit(model(), Labelled(known, [1.0] * len(known)), Schedule(600, 1, 5e-3), None, beside)


@pytest.mark.parametrize("asked", ["", "100,", "7", "100,x", "-100", "2"])
def test_labels_that_cannot_be_halved(asked: str) -> None:
    """Refused before anything is read, with an example."""
    with pytest.raises(MailtaggerError, match=r"100,1000"):
        consistency.main([f"--labels={asked}"])


def test_more_labels_than_there_are(rows: Split) -> None:
    """Neither fewer labels than the table says, nor none left to go without."""
    with pytest.raises(MailtaggerError, match="too few training mails for 5000 labels"):
        material(rows, 5000, 0)


def test_the_whole_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """--smoke prints every arm and both linear models, without corpora; what is complete is not made again."""
    monkeypatch.setenv("MAILTAGGER_CORPORA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    consistency.main(["--smoke"])
    table = capsys.readouterr().out
    for arm in (*consistency.ARMS, *consistency.BASELINES):
        assert table.count(f"| {arm} |") == 2
    monkeypatch.setattr(consistency, "fit", lambda *_: pytest.fail("it was trained again"))
    again = consistency.report("dedup", [20, 40], 1, 60, False)
    assert again in table
