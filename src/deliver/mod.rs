//! Taking queued messages on: to mailboxes here, later to other hosts.
