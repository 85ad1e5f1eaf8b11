"""Parts of `tools.plan`: topologies, programs, and what a compiled program says about itself."""
