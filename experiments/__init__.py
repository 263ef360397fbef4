"""The claims of the paper, tried again; not in the wheel."""
