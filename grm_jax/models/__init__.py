"""The decoder, its heads, and the published shapes."""
