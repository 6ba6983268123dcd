"""How a method is named and drawn in reports."""

from dataclasses import dataclass

# Okabe and Ito's colours, which stay apart for colour-blind readers, where they show on white and
# on black alike. A family shares its colour; marker and dash together tell every method apart.
GREY, BLUE, SKY, PINK, VIOLET = "#808080", "#0072B2", "#56B4E9", "#CC79A7", "#8C6BB1"
AMBER, BROWN, GREEN, RED, SALMON = "#E69F00", "#A6761D", "#009E73", "#D55E00", "#F28E5B"


@dataclass(frozen=True)
class Style:
    """How a method is named and drawn."""

    label: str
    color: str
    marker: str
    """Marker in matplotlib's notation."""
    dash: str = "solid"
    """solid, dash, dot or dashdot."""
    main: bool = False
    """Whether a reader looks for this method first; the others are drawn lighter."""
