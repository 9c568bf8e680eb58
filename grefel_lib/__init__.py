"""GReFEL for facial expression recognition: the library that the notebooks call."""

__version__ = "0.1.0"
