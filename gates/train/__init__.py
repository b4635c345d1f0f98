"""Training retention gates for a frozen Hugging Face causal language model (the extra `train`).

The recipe is that of "Make Each Token Count" (arXiv 2605.09649): every cell fades by its own beta, the student that reads
such a cache must say what the model says with the full one, and what is left over all layers and heads must fit a budget.
"""
