"""The command `loom`. Nothing heavy is imported before it is needed: start-up is a feature."""

import sys


def main() -> int:
    """Run the command line of this process and return its exit code."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        from loom import __version__

        print(f"loom {__version__}")
        return 0
    from loom.cli.main import run

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
