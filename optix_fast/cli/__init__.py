"""The optix-fast command line."""
