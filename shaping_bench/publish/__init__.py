"""What people read: tables (a format is a file of ``writers/``), figures, the page, citations, W&B."""
