"""A trained model behind HTTP: an API, a page, and nothing kept of what was sent."""
