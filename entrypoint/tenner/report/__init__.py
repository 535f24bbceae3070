"""The page that tells a run: what was asked, what was done, and whether it is any good.

`facts` is what the page is given, `curve` reads the loss in words, `plot` draws it, `images` makes
pictures small, `page` writes the one self-contained file.
"""
