"""What images and label maps are, as ``audio`` is for speech: leaf modules that models, data and training share."""
