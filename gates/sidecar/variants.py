"""The forms of gates, and what their output means."""

# log beta of "Make Each Token Count" (one budget for the model) and of "Cache What Lasts" (one for each head); one layer
# alone; the small attention of Fast KVzip
RG10, RG, LINEAR, FAST_KVZIP = "rg10", "rg", "linear", "fast_kvzip"
VARIANTS = (RG10, RG, LINEAR, FAST_KVZIP)
TRAINED_VARIANTS = (RG10, RG)  # by `gates train`, and by the authors of the method

# the output is log beta, and the score (age of the cell) * log beta; or it is the score itself
DECAY, STATIC = "decay", "static"
SCORE_KINDS = (DECAY, STATIC)

ACTIVATIONS = ("silu", "gelu", "gelu_erf", "relu")  # gelu is the tanh form, gelu_erf the exact one
