"""Many runs: listing and comparing them, searching over configurations. Knows their files, not their models."""
