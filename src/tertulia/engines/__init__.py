"""Engines: what keeps a space. One is loaded by its URL's scheme; they never import each other."""
