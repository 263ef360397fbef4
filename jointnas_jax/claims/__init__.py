"""The paper's claims, tried on the data at hand."""
