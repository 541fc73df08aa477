"""The program inside an environment: it opens a call, runs it, and reports.

Everything in this package travels in each call's archive and runs there on Python 3.8 or newer with
nothing but the standard library. The sender uses the same ``protocol`` and ``values`` modules, so both
sides read and write one format.
"""
