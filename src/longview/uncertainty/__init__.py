"""How far a probability can be trusted: Monte-Carlo dropout, deep ensembles, and what rejecting the uncertain gains."""
