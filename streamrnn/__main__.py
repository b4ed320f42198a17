"""``python -m streamrnn`` is the command ``streamrnn``."""

from streamrnn.cli import main

if __name__ == "__main__":
    main()
