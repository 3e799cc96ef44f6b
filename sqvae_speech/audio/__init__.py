"""Wav in and out, mel specifications (the only log-mel in the project), vocoders."""
