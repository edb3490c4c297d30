"""How the model that ships is made and measured: each module is a stage, run as `python -m training.STAGE`."""
