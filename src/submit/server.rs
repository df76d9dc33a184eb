//! submit's end: one client after another, never two on one connection; end of input abandons.
