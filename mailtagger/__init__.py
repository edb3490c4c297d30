"""mailtagger: watches IMAP folders, scores mail with a fine-tuned ULMFiT classifier, marks or moves spam."""

__version__ = "0.1.0"
