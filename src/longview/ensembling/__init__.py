"""Several models as one: predictions averaged (`ensemble`), weights averaged (`soup`)."""
