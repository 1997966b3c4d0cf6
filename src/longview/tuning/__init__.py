"""The search for better settings of an experiment: its space, its study, its trials and its report."""
