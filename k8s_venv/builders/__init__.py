"""Turn an environment and its lock into an image."""

# The generation of each builder, which locks record and images' tags follow from. Raise it if the same lock gives
# another image than before.
GENERATIONS = {"layers": 1, "buildkit": 2}
