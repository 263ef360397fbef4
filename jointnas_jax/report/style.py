"""Style of figures: ink, two greys, paper and one accent colour."""

import re
from typing import Any

from cycler import cycler

INK, SOFT, PALE, PAPER, ACCENT = "#1f2328", "#6e7780", "#c8d0d9", "#fefefe", "#0b66c3"
# Okabe-Ito colours, for lines that differ with any colour vision.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#999999"
PURPLE, YELLOW, SKY = "#CC79A7", "#E69F00", "#56B4E9"

# A small note beside a mark, for `annotate`.
NOTE: dict[str, Any] = dict(textcoords="offset points", fontsize=7)

# For `matplotlib.rc_context`. Text stays text, so that a page can give it a font and a colour.
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 8.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.facecolor": PAPER,
    "axes.linewidth": 0.7,
    "axes.prop_cycle": cycler(color=[ACCENT]),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "lines.linewidth": 1.3,
    "lines.color": ACCENT,
    "patch.facecolor": ACCENT,
    "patch.edgecolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.handlelength": 1.6,
}

# Names of the page's colours, see `page.css`.
_VARIABLES = {INK: "ink", SOFT: "soft", PALE: "pale", PAPER: "paper", ACCENT: "accent"}


def inline_svg(svg: str, name: str, label: str) -> str:
    """A figure for the page, with the colours and the font of the page.

    Args:
      svg: SVG file by Matplotlib.
      name: Name of the figure, which makes its identifiers unique.
      label: Description for screen readers, escaped.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    # font: [style] size 'DejaVu Sans', ...; the size stays
    svg = re.sub(r"font: ([^;\"]*?)([\d.]+px) [^;\"]*", r"font-size: \2", svg)
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    return re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>',
        rf'<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="\1" role="img" '
        rf'aria-label="{label}">',
        svg,
        count=1,
    )
