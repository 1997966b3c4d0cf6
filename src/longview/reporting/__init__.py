"""The report of an evaluation: one page for a browser, and a model card. Every figure in them is in metrics.json."""
