"""Runs as web pages of one file: what is known is gathered from their folders, drawn, and rendered."""
