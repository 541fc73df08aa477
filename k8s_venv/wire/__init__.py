"""The format that both sides of a call write and read: its names, its values, and its errors.

Everything in this package travels in each call's archive. It runs on Python 3.8 or newer with nothing but the standard
library and ``k8s_venv.runtime``.
"""
