"""Settings: a typed schema, and the layers of YAML that fill it."""
