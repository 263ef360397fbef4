"""A study on machines that are not there: how long it would take on a fleet, and what it loses."""
