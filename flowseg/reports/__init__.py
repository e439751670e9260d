"""HTML pages, charts and overlays."""
