//! Tasks in PostgreSQL.
