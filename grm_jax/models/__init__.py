"""What is computed: the decoder, its heads and the published shapes."""
