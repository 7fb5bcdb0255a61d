"""A stored result as numbers, tables, pictures and pages."""
