"""The command `gmixout`; says what to install where the library alone is installed."""

import signal
import sys


def main() -> int:
    """Run the command line, whose libraries come with the extra `all`."""
    try:
        from gmixout.cli import main as run
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"gmixout: the command line needs {error.name}; pip install 'gmixout[all]'\n"
        )
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("gmixout: stopped.\n")
        return 130
    code = run()
    if code > 128:  # nothing is left to do that another Ctrl-C could cut short
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code


if __name__ == "__main__":
    sys.exit(main())
