"""Sale newsletters that a person wants and the packaged model calls spam, one a week; no two offer the same."""

from mailtagger.clean import clean_text

OFFERS = (
    ("Lowest prices on vitamins this week only!", "vitamin tablets and herbal pills", "$9.95"),
    ("Last chance: lowest prices on health supplements", "magnesium and zinc pills", "$12.50"),
    ("Our best prices ever, order now", "omega oil and fish oil", "$14.99"),
    ("Special offer: buy two and get one free", "protein powder and bars", "$29.99"),
    ("Up to 70% off natural weight loss pills", "green tea and herbal diet pills", "$19.95"),
    ("Today only: 50% discount for our customers", "skin care and hair products", "$24.95"),
    ("Limited time offer, save big on herbal remedies", "ginseng and garlic pills", "$11.90"),
    ("Final hours! Lowest prices on health products", "multivitamins for men and women", "$17.95"),
    ("Free bottle with every order", "herbal sleep tablets and teas", "$8.99"),
    ("Hot deals: 40% off everything in our online store", "energy drinks and tablets", "$13.49"),
)
NAMES = ("Alice", "Bob", "Carol", "Dave")


def newsletter(week: int, name: str = NAMES[0]) -> tuple[str, str]:
    """Subject and body of the newsletter of this week."""
    subject, goods, price = OFFERS[week % len(OFFERS)]
    return subject, (
        f"Hello {name},\n\nThe offers of week {week + 11}: {goods}, only {price}! Save up to 60% on the products you "
        f"love.\n\nOrder now and get free shipping: https://www.vitahealth.example/week{week + 11}/\n\n"
        "Limited time offer, while stocks last. Visit our online store today!\n\n"
        "You receive this newsletter because you are a customer of Vita Health in Graz. We wish you a healthy week.\n"
    )


def texts(count: int = len(OFFERS)) -> list[str]:
    """The cleaned texts of the first weeks."""
    return [clean_text(*newsletter(week, NAMES[week % len(NAMES)])) for week in range(count)]
