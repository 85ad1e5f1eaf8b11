"""Where it is computed: meshes, logical axis rules, placing and fetching of arrays."""
