"""The local backend: a virtual environment from the lock, and the runner as a subprocess."""
