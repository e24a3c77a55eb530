"""The way to addresses of the web that users name: the only one. Imports settings."""
