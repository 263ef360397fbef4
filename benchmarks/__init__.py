"""Comparisons with other tools and with other ways to do the same; not in the wheel."""
