"""The two stages of the search. Knows index vectors and scores, and nothing of networks or data."""
