"""Networks: layers, a candidate as a Flax module, exact costs."""
