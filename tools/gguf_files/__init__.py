"""What `tools.from_gguf` knows of GGUF: the file, its models, its rotations, its vocabularies."""
