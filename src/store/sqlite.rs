//! Tasks in SQLite.
