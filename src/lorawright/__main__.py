"""`python -m lorawright` is the same as `lorawright`."""

from lorawright.cli import main

if __name__ == "__main__":
    main()
