//! smtpsrvr
fn main() {}
