"""How reports, plans and progress are shown."""
