"""The JSON that the API returns, built from rows of the database."""
