"""The stages of the scoreboard: their order, and the colour that each has in every figure.

A stage of your own is one more entry: STAGES["mine"] = "#000000".
"""

# Colours of Okabe and Ito (2008), "Color universal design": colour-blind readers can tell them apart.
STAGES = {
    "zero-shot": "#7F7F7F",
    "dictionary": "#CC79A7",
    "finetuned": "#0072B2",
    "hard-negatives": "#E69F00",
    "reranked": "#009E73",
}
