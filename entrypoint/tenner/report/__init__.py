"""The page of a run: its settings, what was decided and done, and how good the result is.

`facts` is what the page is given, `curve` reads the loss in words, `plot` draws it, `images` makes
pictures small, `page` writes the one self-contained file.
"""
