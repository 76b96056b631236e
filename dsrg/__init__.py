"""Image tags to pixel masks by Deep Seeded Region Growing (Huang et al., CVPR 2018)."""
