"""The project file: the environments that it names, and how values travel."""
