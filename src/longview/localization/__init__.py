"""From heat-maps to boxes, what the boxes are worth against true ones, and consolidation of several models' maps."""
