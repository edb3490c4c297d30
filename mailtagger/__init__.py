"""mailtagger: watches IMAP folders, scores mail with a fine-tuned ULMFiT classifier, marks or moves spam."""

import os

__version__ = "0.1.0"

# From 1.29 on onnxruntime tells Microsoft of each process, session and model, unless this is set before its import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
