"""`python -m service.cli`: the `normlab` command without its installed script."""

from service.cli import main

if __name__ == "__main__":
    main()
