"""What lets a browser run candidates: a page, the server that it talks to, and who shows it."""
