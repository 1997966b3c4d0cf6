"""Getting data sets by their owners' own tools, and checking what arrived."""
