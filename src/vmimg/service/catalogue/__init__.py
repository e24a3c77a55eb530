"""The database: tables, migrations, and functions over a connection for each kind of record."""
