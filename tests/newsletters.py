"""Sale newsletters that a person wants and the packaged model calls spam, one a week; no two offer the same."""

from mailtagger.clean import clean_text

SHOP = "Garden & Home Outlet"
OFFERS = (
    ("Spring sale: 50% off garden furniture", "Teak benches, loungers and parasols", "chairs from $29.99"),
    ("Last chance: free shipping this weekend", "Everything for your balcony", "planters from $9.99"),
    ("Save up to 70% in our summer clearance", "Barbecues, smokers and covers", "grills from $79"),
    ("New deals today only, order now", "Lawn mowers and hedge trimmers", "mowers from $119"),
    ("Members only: extra 20% off with code GREEN20", "Bulbs, seeds and compost", "tulips from $3.50"),
    ("Black Friday starts early: best prices of the year", "Lights and lanterns", "string lights from $7.99"),
    ("Final hours! 60% off all outdoor rugs", "Rugs, cushions and throws", "rugs from $24.99"),
    ("Don't miss out: buy one get one free", "Bird feeders and nest boxes", "feeders from $12"),
    ("Winter warmers, prices slashed", "Fire pits and patio heaters", "fire pits from $59"),
    ("Weekend flash sale, 40% off everything", "Tools, gloves and boots", "spades from $14.99"),
)
NAMES = ("Alice", "Bob", "Carol", "Dave")


def newsletter(week: int, name: str = NAMES[0]) -> tuple[str, str]:
    """Subject and body of the newsletter of this week."""
    subject, goods, price = OFFERS[week % len(OFFERS)]
    return subject, (
        f"Hi {name},\n\nOur offers for week {week + 11} are here. {goods}: {price}!\n\n"
        f"Shop now at https://www.garden-outlet.example/week{week + 11}/sale and save big. Limited time offer, while "
        f"stocks last. Free delivery on orders over $50.\n\n"
        f"Click here to see all deals. You receive this email because you subscribed to the {SHOP} newsletter. "
        "To unsubscribe click here: https://www.garden-outlet.example/unsubscribe\n"
    )


def texts(count: int = len(OFFERS)) -> list[str]:
    """The cleaned texts of the first weeks."""
    return [clean_text(*newsletter(week, NAMES[week % len(NAMES)])) for week in range(count)]
