//! What surrounds every program: logs that never reach the client, exit statuses, a panic and a failing allocation.

mod common;
