"""`gmixout data check`: are the files of a benchmark there, and whole?"""

from rich.console import Console

from gmixout.data import Source


def check(source: Source, decode: bool = False) -> None:
    """Checks the files of a benchmark: layout, counts and, if wished, every image.

    Args:
        source: `gmixout data check NAME --root DIR`: the benchmark's name; its other options follow
            as `--OPTION VALUE`.
        decode: Open every image, too.

    Raises:
        DataError: Something is missing or broken; says what, and where to get it.
    """
    Console(highlight=False, markup=False).print(str(source.check(decode)), soft_wrap=True)
