"""Where faces come from: published data sets on disk, drawn faces, photographs."""
