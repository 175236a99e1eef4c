"""`python -m llama_from_scratch`: see `cli`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
