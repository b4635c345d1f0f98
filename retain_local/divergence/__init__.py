"""How far the next-token distributions of caches that evict are from those of a full one, token by token.

`lockstep.diverge` reads a text and gives a `divergence.Divergence` for each cache; `summary.summarize` condenses them.
"""
