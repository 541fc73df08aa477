"""What of the project's own source a function needs: read as text and syntax tree, sent as slices and values."""
