"""How sure figures are: patients drawn again, intervals, and tests of differences. NumPy alone."""
