"""tenner as a library: what `tenner.train`, `check`, `plan`, `compare` and `inspect` are.

The command line is made of the same functions. Nothing is printed, no signal is handled and the
process is never ended; what fails raises a TennerError.
"""
