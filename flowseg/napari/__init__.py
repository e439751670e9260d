"""The napari plugin: cells found, looked at and saved where the image is."""
