"""Judges of text to image: networks that give an image and its caption a score."""
