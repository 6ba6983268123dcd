"""The command `gmixout`; explains what to install if only the library is installed."""

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
    if code > 128:  # nothing is left that another Ctrl-C could interrupt
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code


if __name__ == "__main__":
    sys.exit(main())
