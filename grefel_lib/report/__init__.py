"""Figures, tables and the model card of an evaluation."""
