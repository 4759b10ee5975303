"""``python -m safelight.cli``, as torchrun starts it."""

from safelight.cli import main

if __name__ == "__main__":
    main()
