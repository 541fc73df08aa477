"""Requirements -> a lock with exact versions and hashes (PEP 751), and whether one still fits."""
