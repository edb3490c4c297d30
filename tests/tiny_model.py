"""A tiny ULMFiT artifact for tests, and the script that makes it.

    python tests/tiny_model.py    trains it anew into tests/data/tiny_model; needs the [train] extra and half a minute

It is committed, so that tests need the core dependencies only. It knows the sentences below and little else: obvious
spam scores above 0.9 and short plain ham below 0.1; long ham in other words may score anything. It was trained under
the cleaning rules of its day; `tiny_model(directory)` is a copy stamped with today's, because `artifact.load` refuses
others and a tuned rule does not spoil a test model.
"""

import random
import shutil
from pathlib import Path

from mailtagger import artifact
from mailtagger.clean import RULES_HASH, clean_text

COMMITTED = Path(__file__).parent / "data" / "tiny_model"

SPAM_TEXT = "Cheap viagra and cialis, no prescription needed! Order now at http://pills.example and save 80%"
HAM_TEXT = "Are we still meeting for lunch on Tuesday? I attached the notes from the project review. Thanks, Anna"

SPAM = """
Cheap viagra and cialis, no prescription needed
Order your pills online and save 80% today
Discount pharmacy: all meds without a doctor
You have won the international lottery, claim your prize now
Congratulations! You are our lucky winner of $1,000,000
Your email was selected for a cash prize of 500 dollars
Claim your free gift card before it expires
I am a barrister with a confidential business proposal for you
The late client left a sum of 18.5 million dollars in our bank
Send your bank details so that we can transfer the funds
You will receive 40% of the money, it is 100% risk free
Your account has been suspended, verify your password immediately
Click here to confirm your identity or your mailbox will be closed
Unusual activity was detected, log in now to restore your account
Make money from home, earn $5,000 a week with no experience
Our trading robot doubles your bitcoin in nine days
Invest now, guaranteed profit, limited places left
This crypto coin is about to explode, last chance
Luxury replica watches, rolex and omega, from $149
Free shipping worldwide, today only, buy now
Lose weight fast with this miracle pill
Hot singles in your area want to meet you tonight
Enlarge it now, satisfaction guaranteed or your money back
Lowest mortgage rates ever, refinance your loan today
Get out of debt, bad credit is no problem, apply now
We can put your website on page one of google, cheap seo offer
Buy 1 million email addresses for your marketing campaign
Online casino: 200 free spins and a welcome bonus
ACT NOW! This is a limited time offer, do not miss it
Click the link below to unsubscribe or to claim your bonus
Visit our store: http://deals.example/buy
CLICK HERE http://winner.example/claim?id=4711
Sie haben gewonnen! Sichern Sie sich jetzt Ihren Gutschein
Klicken Sie hier und bestätigen Sie sofort Ihre Daten
100% free, amazing offer, cash bonus, order now
Dear friend, this is urgent and strictly confidential
""".strip().splitlines()

HAM = """
Are we still meeting for lunch on Tuesday
I attached the notes from the project review
Thanks for the draft, I have two comments on page three
The meeting is moved to Thursday at ten in the small room
Could you send me the agenda for tomorrow
Lunch tomorrow? Are you free at noon
The quarterly figures are in the report, please review them by Friday
Please find the minutes of the committee meeting below
The children loved the cake, give our love to grandma
We are back from the holidays and the garden looks wild
See you at the station on Friday evening
Happy birthday, and many greetings from all of us
Your order has been shipped and will arrive on Monday
Your receipt for order 20417: total 24.90, paid by card
Here is the invoice for October, payment is due in 30 days
You asked to reset your password; if it was not you, ignore this message
Your ticket for the train to Vienna is attached
This message was created automatically by mail delivery software
Your message could not be delivered to one of its recipients
The library will be closed on Monday for the holiday
Our monthly newsletter: new books, a reading in March and opening hours
I can reproduce the bug with the latest release, see the log below
The patch looks good to me, please add a test and rebase
On Monday Peter wrote: did you look at the build failure
The server will be down for maintenance on Sunday morning
Let me know if you have questions about the report
I will call you after the doctor's appointment
Minutes and slides are in the shared folder
The students finished their thesis, can you read it before the weekend
Guten Morgen, wir treffen uns am Montag um neun im Büro
Vielen Dank für die Unterlagen, ich melde mich nächste Woche
Liebe Grüße an die Kinder, bis bald
Dear colleagues, the budget for next year was approved
The new version fixes two crashes, details are in the changelog
Documentation is at https://docs.example/guide if you need it
How was your trip? We had rain all week
I fixed the typo and pushed the branch
hello, a short note that the test went well
Unsubscribe from this mailing list at http://lists.example/options
""".strip().splitlines()

NEITHER = """
Hello
Hi Alice
Dear Sir or Madam
Best regards
Kind regards, Bob
Please reply to this message
This is a message
See http://www.example.com for details
It was sent to alice@example.org
Sent from my phone
Test
""".strip().splitlines()

GOLDEN = (
    SPAM_TEXT,
    HAM_TEXT,
    "You have won a free prize, click here to claim your bonus now",
    "Your receipt is attached, see you on Monday",
    "Please reply to this message with the report on the limited time offer",
)


LETTERS = "eeeeetttaaaooiinnssrrhhllddccuummfgpwybvkjxqzäöü"


def tiny_model(directory: Path, id: str = "tiny-20261124") -> Path:
    """A copy of the committed model under `directory`, usable under today's cleaning rules."""
    copy = Path(shutil.copytree(COMMITTED, directory / id))
    copy.chmod(0o755)
    meta = artifact.Meta.model_validate_json((copy / artifact.META).read_bytes())
    stamped = meta.model_copy(update={"cleaning": RULES_HASH, "id": id})
    artifact.write(artifact.Artifact(copy, stamped))
    return copy


def texts(seed: int, count: int) -> tuple[list[str], list[float]]:
    """Cleaned messages put together from the sentences above, and how much each is spam.

    Words that nobody wrote stand between them, so that the model learns to take what it has not seen for ham; facts of
    structure stand below them by chance, so that they say nothing.
    """
    from mailtagger.ulmfit.tokenizer import STRUCTURE

    draw = random.Random(seed)

    def strange() -> str:
        words = ["".join(draw.choices(LETTERS, k=draw.randint(2, 9))) for _ in range(draw.randint(2, 12))]
        return " ".join(words)

    found: list[str] = []
    labels: list[float] = []
    for i in range(count):
        sentences, label = ((SPAM, 1.0), (HAM, 0.0))[i % 2] if i % 6 else (NEITHER, 0.05)
        parts = draw.sample(sentences, draw.randint(1, 5)) + draw.sample(NEITHER, draw.choice([0, 0, 1, 2]))
        parts += [strange() for _ in range(draw.choice([0, 0, 1, 3] if label == 1 else [0, 1, 3, 6]))]
        draw.shuffle(parts)
        end = draw.choice(["\n", ". ", "!\n", ".\n\n"])
        text = clean_text(draw.choice([parts[0], "", "Re: " + parts[0]]), end.join(parts))
        found.append(" ".join([text, *draw.sample(STRUCTURE, draw.choice([0, 1, 2, 3]))]))
        labels.append(label)
    return found, labels


def train() -> None:
    """Writes tests/data/tiny_model."""
    import tempfile

    import numpy as np
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    from mailtagger.ulmfit import tokenizer
    from mailtagger.ulmfit.batching import padded
    from mailtagger.ulmfit.export import export
    from mailtagger.ulmfit.model import Classifier, Dropouts, Sizes

    torch.manual_seed(0)
    torch.set_num_threads(1)
    found, labels = texts(seed=0, count=2000)
    with tempfile.TemporaryDirectory() as aside:
        file = Path(aside) / artifact.TOKENIZER
        tokenizer.train(found, file, vocabulary=600, model="bpe")  # whole words, which are familiar
        pieces = tokenizer.load(file)
        ids = [tokenizer.cut(row) for row in pieces.encode(found)]
        wanted = torch.tensor(labels)
        model = Classifier(Sizes(pieces.get_piece_size(), embedding=24, hidden=32), Dropouts().scaled(0.3))
        optimiser = torch.optim.AdamW(model.parameters(), 4e-3, weight_decay=0.05)
        for epoch in range(12):
            total = 0.0
            for batch in torch.randperm(len(ids)).split(32):
                loss = binary_cross_entropy_with_logits(model(*padded([ids[i] for i in batch])), wanted[batch])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                total += loss.item() * len(batch)
            print(f"epoch {epoch}: loss {total / len(ids):.4f}")
        state = {name: np.asarray(value) for name, value in model.state_dict().items() if value.ndim}
        made = export(
            state,
            file,
            COMMITTED,
            id="tiny-20261124",
            created="2026-11-24",
            data="tests/tiny_model.py",
            golden=[clean_text("", text) for text in GOLDEN],
            calibration=(1.0, 0.0),
            cutoffs=(0.2, 0.8),
        )
    (COMMITTED / artifact.REFERENCE).unlink()  # nothing needs it here
    for golden in made.meta.golden:
        print(f"{golden.p:.4f}  {golden.text}")


if __name__ == "__main__":
    train()
