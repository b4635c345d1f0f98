"""What a caller may choose for a model and its cache: how options are declared, reading their values, and what they come to.

`table.py` says how an option is declared; every part of the program makes its own tables with it.
"""
