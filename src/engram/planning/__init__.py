"""What a configuration asks for, and what each job depends on; the standard library alone."""
