//! What servers and submit say to each other: bounded netstring frames, the first octet of each its kind.
