"""The docker backend: one container a call on the local engine, through Docker's SDK."""
