"""The two forms of gates: one budget for the whole model, or one for each (layer, KV head)."""

RG10, RG = "rg10", "rg"
VARIANTS = (RG10, RG)
