"""``python -m opuslive`` and the ``opuslive`` command."""

from opuslive.cli import main

if __name__ == "__main__":
    main()
