"""A corpus in a moment: a few hundred made-up mails, so that every stage can be tried whole in seconds.

    python -m training.lm --smoke          python -m training.classifier dedup --smoke
"""

import lzma
import os
import tempfile
from pathlib import Path

import numpy as np

from mailtagger.clean import clean_text
from training import prepare
from training.corpora import Document
from training.everyday import everyday
from training.splits import Part, Row

MAILS = 240
LURES = "won claim free prize cash bonus pills cheap offer loan winner lottery casino discount urgent transfer".split()
PARTS: tuple[Part, ...] = ("train",) * 8 + ("valid", "test")
SAID = "A trial on {} made-up mails in {}; no figure of it means anything."


def begin() -> Path:
    """Make such a corpus in a directory of its own and work there: prepared rows, and text without labels in
    $MAILTAGGER_CORPORA."""
    directory = Path(tempfile.mkdtemp(prefix="mailtagger-smoke-"))
    os.chdir(directory)
    os.environ["MAILTAGGER_CORPORA"] = str(directory)
    print(SAID.format(MAILS, directory), flush=True)
    prepare.write(rows(), prepare.OUT)
    texts = [f"{subject}\n{body}" for subject, body in everyday(MAILS, 1)]
    with lzma.open("general_text.txt.xz", "wt", encoding="utf-8") as file:
        file.write("".join(f"{text}\n\n" for text in texts))
    with lzma.open("mail_text.txt.xz", "wt", encoding="utf-8") as file:
        file.write("\n\n\n".join(f"Subject: {text}".replace("\n", "\n\n", 1) for text in texts))
    return directory


def rows() -> list[Row]:
    """Everyday mail as ham, lures as spam, as if they were Enron's; each a group of its own."""
    rng = np.random.default_rng(0)
    good = [clean_text(*mail) for mail in everyday(MAILS // 2, 0)]
    bad = [" ".join(rng.choice(LURES, int(rng.integers(20, 60)))) for _ in good]
    found = []
    for label, texts in (("ham", good), ("spam", bad)):
        for i, text in enumerate(texts):
            key = f"enron/{label}{i}"
            document = Document("enron", f"enron/{i % 6 + 1}", key, label, text)  # type: ignore[arg-type]
            found.append(Row(document, key, PARTS[i % 10], "valid" if i % 5 == 4 else "train"))
    return found
