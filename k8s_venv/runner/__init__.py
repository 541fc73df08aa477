"""The program inside an environment: it opens a call, runs it, and reports.

Everything in this package travels in each call's archive, beside ``k8s_venv.wire``. It runs there on Python 3.8
or newer with nothing but the standard library. The sender reads it as files and never imports it.
"""
