"""`retain-local demo`: one long conversation, asked about with the full cache and with small ones."""
