"""Scores of voices: converted, resynthesised or spoken recordings against what they should be."""
