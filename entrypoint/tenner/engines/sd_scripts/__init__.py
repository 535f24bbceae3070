"""kohya's sd-scripts, driven without its traps: a plan in its words, its log lines as events.

Everything here is a function of values; processes are started elsewhere. The facts are those of
one commit, named in `options.json`; `tests/contract/` holds them against the real parser.
"""
