"""`python -m llama_from_scratch`: see `cli`."""

import sys

try:
    from .cli import main
except KeyboardInterrupt:  # while PyTorch is imported
    sys.exit(130)

if __name__ == "__main__":
    sys.exit(main())
