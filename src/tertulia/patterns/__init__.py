"""Recipes over a space, made of its public operations only; the core never imports them."""
