"""The plumbing of the course; what is taught stands in the notebooks."""
