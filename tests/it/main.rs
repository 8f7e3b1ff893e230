//! Whether the service keeps its promises: through HTTP, the command line and SQL, on a real PostgreSQL.
