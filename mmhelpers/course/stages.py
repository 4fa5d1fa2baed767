"""The stages of the scoreboard: their order, and the colour that each has in every figure."""

from __future__ import annotations

# Colours of Okabe and Ito (2008), "Color universal design": colour-blind readers can tell them apart.
STAGES = {
    "zero-shot": "#7F7F7F",
    "finetuned": "#0072B2",
    "longer": "#56B4E9",
    "hard-negatives": "#E69F00",
    "reranked": "#009E73",
}


def register(name: str, colour: str) -> None:
    """Add a stage of your own at the end of the board.

    Args:
        name: as `Scoreboard.add` is told it.
        colour: for figures, as matplotlib takes it.
    """
    STAGES[name] = colour
