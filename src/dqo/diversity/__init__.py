"""What a response is worth for being different."""
