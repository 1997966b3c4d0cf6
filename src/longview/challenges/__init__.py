"""What the challenges ask for: their tasks, gating rules, and the check of a file before it is uploaded."""
