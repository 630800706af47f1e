"""Which windows a record falls into, when they fire, and where their panes live."""
