"""Pictures in: published data sets on disk, drawn faces, photographs."""
