"""Pictures of what is kept and of what that costs: HTML pages that need no network, and PNG files."""
