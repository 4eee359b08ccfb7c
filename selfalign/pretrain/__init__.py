"""Stage 1: pretraining of all weights on many embodiments, so that stage 2 can align W alone."""
