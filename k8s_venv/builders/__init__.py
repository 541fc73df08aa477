"""Turn an environment and its lock into an image."""
