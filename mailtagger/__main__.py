"""`python -m mailtagger`, the same as the command `mailtagger`."""

from mailtagger.cli import main

if __name__ == "__main__":
    main()
