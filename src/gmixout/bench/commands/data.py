"""`gmixout data check`: check that the files of a benchmark are present and intact."""

from rich.console import Console

from gmixout.data import Source


def check(source: Source, decode: bool = False) -> None:
    """Check the files of a benchmark: layout, counts and, optionally, every image.

    Args:
        source: `gmixout data check NAME --root DIR`: the benchmark's name; its other options follow
            as `--OPTION VALUE`.
        decode: Also open every image.

    Raises:
        DataError: Something is missing or broken; the message lists it and where to get it.
    """
    Console(highlight=False, markup=False).print(str(source.check(decode)), soft_wrap=True)
