"""Interactive panels for JupyterLab."""
