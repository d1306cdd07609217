"""What a person looks at: tables, progress, pictures, pages."""
