"""Networks: images of a study to one logit per label."""
